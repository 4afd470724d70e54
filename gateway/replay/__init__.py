"""Replay: what a policy, and the rules that others run, would have decided on recorded traffic, and when."""
