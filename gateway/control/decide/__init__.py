"""What is decided about rollouts, and in which order it takes effect.

* routes: the state of one route: its rollout, its evidence so far, the last look at it
* rollout_records: recent rollouts for the API
* pipeline: one event through the rollout machine, the journal and the table publisher, in a safe order
* route_judge: a route's evidence judged at each tick
* answer_findings: what sampled answers add to a verdict
* silent_sources: metrics that cannot get data with the current configuration and traffic
* liveness: whether a route's stable backend works at all
* recovery: the first table after a start
* reconfiguration: another configuration comes into force
"""
