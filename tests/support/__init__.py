"""Real parts for tests: scripted backends, and worker processes under a test's own control."""
