"""How clients get in: the accept loop, limits, the PROXY protocol and TLS."""
