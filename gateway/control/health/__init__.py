"""What is healthy: endpoints by their probes and by their traffic, processes, and the instance as a whole.

* probe, prober: one probe of one endpoint; all of them on a schedule
* endpoint_health: what probes and workers say of endpoints, put together
* ejections: endpoints that live traffic keeps out of rotation
* conditions: what of all this an analysis depends on
* process_alarms: children that hung, configurations that were refused, certificates that end
* readiness: what /readyz says
"""
