"""`gateway demo`: a whole rollout on one machine, with real processes, real traffic and a real verdict.

    scenarios      what is wrong with the canary, and what must come of it
    configuration  the gateway's configuration for a rollout of half a minute
    processes      starting, watching and stopping the processes, whatever happens
    client         the client process: sends held-out inputs and measures what users see
    admin          the gateway's admin API, as the demo uses it
    story          pure: everything that gateway and client said, folded into one state
    show, live     its output: JSON lines, plain lines, or a live view
    summary        the end of the story, for machines and for people
    run            the order of things

The parent starts processes and talks HTTP; it knows nothing that an outsider could not know.
"""
