"""KServe as what splits the requests of a route: an InferenceService that is patched as the route's rollouts say."""
