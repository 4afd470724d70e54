"""What is known of stable's bad moments, in sentences and in numbers, and how failures that come together are judged.

Rules:

1. Of less than `KNOWN_MIN_S` of watching nothing is said but that it is too little.
2. The numbers are what the rollout was told when it began (bursts/past.py), not what has been learnt since.
"""

from __future__ import annotations

from gateway.core.analysis.bursts.past import Weather
from gateway.core.numbers import counted, duration

KNOWN_MIN_S = 60.0


def known(weather: Weather) -> str:
    """What stable did before the rollout.

    >>> known(Weather(3600.0, 12.0, 1.4, 2.3, 60.0))
    'stable had 12 bad moments in the 60 min before, 1.4 s long on average and at most 2.3 s'
    >>> known(Weather(1800.0)), known(Weather(20.0))
    ('stable had no bad moment in the 30 min before', 'nothing is known yet of bad moments of stable')
    """
    if weather.known_s < KNOWN_MIN_S:
        return "nothing is known yet of bad moments of stable"
    if weather.moments < 0.5:
        return f"stable had no bad moment in the {duration(weather.known_s)} before"
    many = counted(round(weather.moments), "bad moment")
    lasting = f"{duration(weather.mean_s)} long on average and at most {duration(weather.longest_s)}"
    return f"stable had {many} in the {duration(weather.known_s)} before, {lasting}"


def judged(weather: Weather, burst_s: float, excused_s: float = 0.0) -> str:
    """How failures that come together are judged, and why.

    >>> judged(Weather(3600.0, 2.0, 0.2, 0.3), 0.3)
    'failures within 0.3 s count as about one (stable had 2 bad moments in the 60 min before, 0.2 s long on average \
and at most 0.3 s)'
    >>> judged(Weather(3600.0, 12.0, 1.4, 2.3, 60.0), 0.3, 4.6)
    'failures within 4.6 s count as a bad moment, no evidence if as rare as those of stable (stable had 12 \
bad moments in the 60 min before, 1.4 s long on average and at most 2.3 s)'
    >>> judged(Weather(), 0.0)
    'each failure counts by itself (nothing is known yet of bad moments of stable)'
    """
    if excused_s:
        how = f"failures within {excused_s:.2g} s count as a bad moment, no evidence if as rare as those of stable"
        return f"{how} ({known(weather)})"
    how = f"failures within {burst_s:g} s count as about one" if burst_s else "each failure counts by itself"
    longer = weather.moments >= 0.5 and weather.known_s >= KNOWN_MIN_S and weather.longest_s > 2.0 * burst_s
    more = ": longer ones of the canary are taken for its own doing" if longer else ""
    return f"{how} ({known(weather)}{more})"


def numbers(weather: Weather) -> dict[str, float]:
    """The same for programs: seconds of watching, moments and their lengths."""
    return {
        "stable_known_s": weather.known_s,
        "bad_moments": weather.moments,
        "bad_moments_per_hour": weather.per_hour,
        "bad_moment_mean_s": weather.mean_s,
        "bad_moment_longest_s": weather.longest_s,
    }
