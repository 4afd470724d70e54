"""The pure core: everything that it needs is an argument.

No clock, randomness, I/O, logging or asyncio in here; time and draws arrive as arguments. Everything is a value or
a function from values to values, so a test needs no fixtures and a restart is a fold over the journal.
"""
