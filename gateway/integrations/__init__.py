"""Registries and pipelines, each optional, each alone. Empty as yet."""
