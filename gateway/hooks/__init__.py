"""Hooks: receivers are notified of what a rollout did, and gates are asked whether it may go on.

* envelope: one transition as a CloudEvent; summary: as people want it; chat, pagerduty, mail: as their messages
* signing: the signature that a receiver checks
* delivery: what a receiver is, and how an attempt fails; webhook, command, mail: the kinds
* outbox: every transition to every hook, in order, at least once, also across a restart
* counters: what became of all that; hook_metrics: the same for Prometheus
* gates: asking a URL whether a gate is open
* build: all of it from the configuration; service: at work beside the control plane
"""
