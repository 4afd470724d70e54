"""The data plane: an HTTP/1.1 reverse proxy as asyncio protocols. Lean: no disk, no numpy, no pydantic.

Read in the order of a request: server, http1, headers, exchange, pool, upstream, tally; link speaks with control.
"""
