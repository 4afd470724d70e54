"""How long a plan takes, and how soon any test can answer."""
