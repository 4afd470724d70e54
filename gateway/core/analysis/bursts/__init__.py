"""The burst guard: failures that come together are counted as one."""
