"""The conversation with the workers and the inspector.

* hub: one session for each worker: reports come up, tables and health go down
* report_aggregator: many workers' reports as one set of totals and one body of evidence
* table_publisher: the table in force, each change under a new epoch
* table_keeper: every table kept before it is published
* inspector_link: what to look at goes to the inspector, its evidence comes back
"""
