"""Numbers as people read them, in findings, on the command line and in reports: the one place that formats them.

Rules:

1. Shares are percent with a blank before the sign: ``0.29 %``. Three digits are enough for what was measured.
2. Durations have one unit and two digits, as a forecast deserves.
3. Counts have a comma for thousands. An average has two digits (`about`).
4. E-values have three digits, or a power of ten beyond what people can count.
"""

from __future__ import annotations

import math

# The unit's length in seconds, how many of it are said before the next unit, and its name.
_SIZES = (
    (1.0, 100.0, "s"),
    (60.0, 100.0, "min"),
    (3600.0, 48.0, "h"),
    (86_400.0, 800.0, "days"),
    (31_557_600.0, 9999.0, "years"),
)


def percent(share: float, digits: int = 3) -> str:
    """A share as percent.

    >>> percent(0.002861), percent(0.25), percent(1 / 3, digits=2)
    ('0.286 %', '25 %', '33 %')
    """
    return f"{100 * share:.{digits}g} %"


def share(events: int, trials: int) -> str:
    """Events among trials.

    >>> share(2, 699), share(0, 0)
    ('2 of 699 (0.286 %)', '0 of 0')
    """
    return f"{events} of {trials} ({percent(events / trials)})" if trials else "0 of 0"


def compared(rate: float | None, events: int, trials: int) -> str:
    """A version's rate as it can be compared with the other's, and of how many; the plain share without such a rate.

    >>> compared(None, 30, 143), compared(0.2, 30, 143), compared(None, 0, 0)
    ('21 % of 143', '20 % of 143', 'none')
    """
    if not trials:
        return "none"
    return f"{percent(events / trials if rate is None else rate)} of {trials:,}"


def points(difference: float) -> str:
    """A difference of shares in percentage points.

    >>> points(0.01), points(0.025)
    ('1 point', '2.5 points')
    """
    said = f"{100 * difference:g}"
    return f"{said} point" if said == "1" else f"{said} points"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things, with a comma for thousands.

    >>> counted(1, "slice"), counted(1200, "request"), counted(2, "retry", "retries")
    ('1 slice', '1,200 requests', '2 retries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def about(number: float) -> str:
    """An average count, to two digits.

    >>> about(2314.2), about(17.1), about(0.2)
    ('2,300', '18', '1')
    """
    whole = max(math.ceil(number), 1)
    digits = len(str(whole))
    return f"{round(whole, 2 - digits):,}" if digits > 2 else str(whole)


def count(number: float) -> str:
    """A number of things, rounded up; beyond a million in few digits.

    >>> count(17.1), count(1234), count(2_500_000), count(3e11)
    ('18', '1,234', '2.5 M', '3.0e+11')
    """
    if number < 1e6:
        return f"{math.ceil(number):,}"
    return f"{number / 1e6:,.3g} M" if number < 1e9 else f"{number:.1e}"


def duration(seconds: float) -> str:
    """Seconds in the unit in which people say them, to two digits.

    >>> [duration(s) for s in (4.2, 40, 240, 7_000, 280_000, 5e8, math.inf)]
    ['4.2 s', '40 s', '4 min', '1.9 h', '3.2 days', '16 years', 'never']
    """
    for size_s, most, unit in _SIZES:
        value = seconds / size_s
        if value < most:
            return f"{value:.2g} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return "never" if seconds == math.inf else "more than 9999 years"


def milliseconds(latency_us: float) -> str:
    """A latency.

    >>> milliseconds(2_000), milliseconds(12_345)
    ('2 ms', '12.345 ms')
    """
    return f"{latency_us / 1000:g} ms"


def odds(log_e: float) -> str:
    """How often chance alone would give evidence like this, at most, given the logarithm of E.

    >>> odds(-1.0), odds(5.48), odds(11.7), odds(math.inf)
    ('1 in 1', '1 in 240', '1 in 120,000', 'never')
    """
    if log_e == math.inf:
        return "never"
    if log_e > math.log(1e9):
        return f"1 in {e_value(log_e)}"
    number = math.exp(max(log_e, 0.0))
    digits = len(str(int(number)))
    return f"1 in {round(number, min(0, 2 - digits)):,.0f}"


def e_value(log_e: float) -> str:
    """E, given its logarithm, whatever its size.

    >>> [e_value(x) for x in (-1.0, 3.0, 11.7, -2762.0)]
    ['0.368', '20.1', '1.2e5', '3.0e-1200']
    """
    ten = log_e / math.log(10.0)
    if -2.0 <= ten < 4.0:
        value = 10.0**ten
        return f"{value:.0f}" if value >= 100.0 else f"{value:.3g}"
    exponent = math.floor(ten)
    mantissa = f"{10.0 ** (ten - exponent):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return f"{mantissa}e{exponent}"
