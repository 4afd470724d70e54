"""The configuration file: strict decode, every error at once with its place and a hint, then the core's values."""
