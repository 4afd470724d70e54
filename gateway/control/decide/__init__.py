"""From evidence and commands to decisions."""
