"""The console: the page that the admin listener serves at ``/``, for people who watch a canary and act.

* static: the page itself, plain modules that a browser reads as they are
* vendor: the published files of the libraries that it uses, with their licences
* files: what is served under which path, in memory, with its media type and tag
"""
