"""THE INSPECTOR: a process beside the request path that reads sampled answers and joins labels to their requests.

It may be slow, be flooded or die, and no request notices: workers drop what it does not take. It imports only the core
and the runtime; it reports to control in the same cumulative counts as workers.
"""
