"""The composition root: the only place where the parts are built and joined.

* start: the way into `gateway serve`: binds the sockets, so that a port in use is said at once and stays ours
* tree: what the supervisor keeps alive, and how a new configuration takes over
* child_settings: what each child gets at its start
* control: the control process; scrape: all its metrics
* state: what the state directory remembers; config_watch: changes of the configuration file

A worker's root is gateway.proxy.worker, which must not import any of this: a worker stays lean.
"""
