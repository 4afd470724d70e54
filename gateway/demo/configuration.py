"""The demo's configuration file: an ordinary gateway, tuned for a rollout of half a minute.

The file is written for people to read (`gateway demo --keep DIR` leaves it behind): its comments say why each number
that differs from the gateway's own defaults does.
"""

from __future__ import annotations

ROUTE = "digits"
INFER_PATH = "/v2/models/digits/infer"
STREAM_PATH = "/v2/models/digits/infer_stream"
CHAT_PATH = "/v1/chat/completions"
STEPS_PERCENT = (5, 25, 50)
LLM_STEPS_PERCENT = (25, 50)
TOKEN_MS = 5
"""How long each of the text models takes for a token."""
_DEADLINE_S = 45.0
_MIRROR_S = 30.0


def deadline_s(*, mirror: bool) -> float:
    """How long the rollout may take."""
    return _DEADLINE_S + (_MIRROR_S if mirror else 0.0)


_TEMPLATE = """\
# Written by `gateway demo`. To run it again by hand: gateway serve {name}
# (the model servers must be running at the addresses below).
listen: 127.0.0.1:{port}
workers: {workers}
state_dir: ./state
admin:
  listen: 127.0.0.1:{admin_port}
limits:
  drain_timeout_s: 2

backends:
  digits-stable:
    endpoints: [{stable_url}]
    probe: {{interval_s: 0.5, timeout_s: 1}}
  digits-canary:
    endpoints: [{canary_url}]
    probe: {{interval_s: 0.5, timeout_s: 1}}

routes:
  - name: {route}
    match: {{path_prefix: {path_prefix}}}
    stable: digits-stable
    canary: digits-canary
    timeouts:
      # A user whose request the canary swallows waits this long before stable answers it. Healthy answers take
      # milliseconds; the rest is room for the stalls of a small machine that runs five processes on two cores.
      first_byte_s: 2
      total_s: 8

    analysis:
      alpha_rollback: 0.01   # one healthy canary in a hundred, at most, is rolled back
      alpha_promote: 0.05    # one canary in twenty that is worse by the margins, at most, is promoted
      # To prove "less than one point more failures" takes some 400 flawless canary requests; the demo asks for three
      # points, for which about 130 are enough.
      errors: {{margin_delta: 0.03}}
      client_errors: {{margin_delta: 0.03}}
      overload: {{margin_delta: 0.03}}
      model_errors: {{margin_delta: 0.03}}   # failures inside of answers with status 200
      latency:
        # Both models answer in a few milliseconds, and everything here shares a few cores, so that a scheduler's
        # pause is larger than any difference between them. What counts as slower must be larger than that noise:
        # half as much again plus 5 ms convicts; less than twice plus 15 ms passes. The slow scenario's 80 ms lie far
        # beyond both.
        tolerance_ratio: 1.5
        tolerance_ms: 5
        margin_ratio: 2
        margin_ms: 15
        margin_delta: 0.1
        # A slice counts once, however many requests it has. Short ones decide within seconds; production prefers 1 s,
        # which is above the pauses that a healthy version may make.
        slice_s: 0.25
{streams}      # Both models have answered before they say that they are ready: there is no need to wait for a canary to
      # become warm.
      warmup_s: 0
      warmup_requests: 0
      # Answers are looked at, too, without being asked for: a digit's share may differ from stable's by 25 points
      # before that is held against a version, because better ones shift it a little.

    plan:
{mirror}      steps:
{steps}
      deadline_s: {deadline_s:g}
      on_deadline: hold      # undecided by then: keep the weight and leave the decision to a person
"""
_STREAMS = """\
      # The same for streams: the first token, the longest pause, the time per token.
      first_token: &streams
        {tolerance_ratio: 1.5, tolerance_ms: 10, margin_ratio: 3, margin_ms: 30, margin_delta: 0.1, slice_s: 0.25}
      gap: *streams
      time_per_event: *streams
"""
_FLOORS = ((6, 60), (5, 150), (5, 300))
_LLM_FLOORS = ((4, 60), (4, 120))
_MIRROR = """\
      # First copies of stable's requests, which no user sees; what differs is found on the same requests.
      mirror:
        min_time_s: 5
        min_requests: 200
        compare:
          margin_delta: 0.03             # as for failures above
          latency_tolerance_ratio: 3     # both take a few milliseconds: what counts must be larger than noise
          latency_margin_ratio: 6
          disagreement_tolerance: 0.15   # a better model does differ, in every twentieth digit or so
          disagreement_margin: 0.25
"""


def configuration(
    *,
    name: str,
    port: int,
    admin_port: int,
    workers: int,
    stable_url: str,
    canary_url: str,
    mirror: bool = False,
    llm: bool = False,
) -> str:
    """The YAML text. Ports may be 0 (any free one); ``name`` is what the file will be called."""
    plan = zip(LLM_STEPS_PERCENT, _LLM_FLOORS, strict=True) if llm else zip(STEPS_PERCENT, _FLOORS, strict=True)
    steps = "\n".join(
        f"        - {{percent: {percent}, min_time_s: {time_s}, min_requests: {requests}}}"
        for percent, (time_s, requests) in plan
    )
    return _TEMPLATE.format(
        path_prefix="/v1" if llm else "/v2/models/digits",
        streams=_STREAMS if llm else "",
        name=name,
        port=port,
        admin_port=admin_port,
        workers=workers,
        stable_url=stable_url,
        canary_url=canary_url,
        route=ROUTE,
        steps=steps,
        mirror=_MIRROR if mirror else "",
        deadline_s=deadline_s(mirror=mirror),
    )
