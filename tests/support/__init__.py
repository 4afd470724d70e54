"""Real parts for tests: backends that can be told what to do, and worker processes under a test's own control."""
