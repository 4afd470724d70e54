"""Hooks: telling the world outside what a rollout did, and asking it whether a rollout may go on.

* envelope: one transition as a CloudEvent, a Slack message or a Teams card
* signing: the signature that a receiver checks
* delivery: one attempt, an HTTP request or a command
* outbox: every transition to every hook, in order, at least once, also across a restart
* tallies: what became of all that, for metrics
* gates: asking a URL whether a gate is open
"""
