"""What a model answered, as yes/no events: bodies to outputs, outputs to a reading, readings and labels to counts.

Nothing here believes a body: whatever cannot be read is an event itself. A decoder holds no state; what has to be
remembered (layout, classes, thresholds, open requests) is in `events` and `labels`, which get
time and random numbers as arguments.
"""
