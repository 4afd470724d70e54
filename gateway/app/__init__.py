"""The composition root: the only place where the parts are built and joined.

``start`` is the way into `gateway serve`: it binds the sockets, so that a port in use is said at once and stays ours
while children come and go. ``tree`` is what the supervisor keeps alive, and how a new configuration takes over;
``told`` is what each child is told at its birth; ``control`` is the control process's own root. A worker's root is
gateway.proxy.worker, which must not import any of this: a worker stays lean.
"""
