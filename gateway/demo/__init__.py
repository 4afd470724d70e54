"""`gateway demo`: a whole rollout on one machine, with real processes, real traffic and a real verdict.

    scenarios      what is wrong with the canary, and what must come of it
    configuration  the gateway's configuration for a rollout of half a minute
    processes      starting, watching and stopping the processes
    client         the client process: sends held-out inputs and measures what users see
    admin          the gateway's admin API, as the demo uses it
    progress       pure: everything that gateway and client reported, folded into one state
    output, live   its output: JSON lines, plain lines, or a live view
    summary        the result, for machines and for people
    run            the stages in their order

The parent starts processes and talks HTTP; it knows nothing that an outsider could not know.
"""
