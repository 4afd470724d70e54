"""The operating system behind small interfaces: clocks, wire messages, logs, processes. No policy in here."""
