"""The endpoints of the backends, and the connections to them."""
