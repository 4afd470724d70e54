"""Findings for people: sentences, effects and intervals."""
