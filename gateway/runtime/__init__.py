"""The world behind small doors: clocks, wire messages, logs, processes. No policy in here."""
