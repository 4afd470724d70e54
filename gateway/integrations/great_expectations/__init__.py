"""Great Expectations as a data gate: of live traffic in windows, and of a file before a rollout begins.

Runs in an environment that has Great Expectations; nothing of the gateway is imported, and the gateway imports nothing
of it (`validators` in the configuration names the command).
"""
