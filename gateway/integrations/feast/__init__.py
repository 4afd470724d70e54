"""Feast as a source of features for requests: a process beside the workers asks its server for them."""
