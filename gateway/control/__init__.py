"""The control plane: what it sees (observer, prober), how it decides (controller), what it keeps (journal), what it does
(executor, hub), and what it shows (views, events, metrics).
"""
