"""Charts as inline SVG: lines, bands, levels and marks. Small enough for a mail; no script, no style attribute."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.report.markup import Markup, element, joined

_WIDTH, _HEIGHT = 520.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 8.0, 12.0, 24.0
_POINTS_MAX = 300

Values = Sequence[float | None]


class ChartLine(NamedTuple):
    """One line, by the class that colours it; ``steps`` draws it as a histogram's outline."""

    values: Values
    kind: str
    steps: bool = False


class Level(NamedTuple):
    """A horizontal line with its label."""

    value: float
    kind: str
    label: str = ""


class ChartMark(NamedTuple):
    """A vertical line where something was decided."""

    at: float
    kind: str
    label: str


class Chart(NamedTuple):
    """What is drawn. ``band`` are the low and the high ends of what surrounds the last line."""

    title: str
    x: Sequence[float]
    lines: Sequence[ChartLine]
    y_text: Callable[[float], str]
    x_text: Callable[[float], str]
    band: tuple[Values, Values] | None = None
    levels: Sequence[Level] = ()
    marks: Sequence[ChartMark] = ()
    log_y: bool = False
    log_x: bool = False
    floor: float | None = None


class _Scale(NamedTuple):
    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        share = (self._of(value) - self._of(self.low)) / ((self._of(self.high) - self._of(self.low)) or 1.0)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.log else value


def draw(chart: Chart) -> Markup:
    """The chart; empty where there are not two points."""
    chosen = range(0, len(chart.x), max(1, math.ceil(len(chart.x) / _POINTS_MAX)))
    if len(chart.x) < 2:
        return Markup()
    x = _Scale(chart.x[0], chart.x[-1], _LEFT, _WIDTH - _RIGHT, chart.log_x)
    y = _y_scale(chart)
    inside = [
        *_grid(chart, x, y),
        *([_band(chart, chosen, x, y)] if chart.band else []),
        *(_level(level, y) for level in chart.levels),
        *(_mark(mark, x) for mark in chart.marks if x.low <= mark.at <= x.high),
        *(_line(chart.x, line, chosen, x, y) for line in chart.lines),
    ]
    svg = element(
        "svg",
        element("title", chart.title),
        *inside,
        view_box=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        xmlns="http://www.w3.org/2000/svg",
    )
    return element("figure", element("figcaption", chart.title), svg)


def _y_scale(chart: Chart) -> _Scale:
    seen = [value for line in chart.lines for value in line.values if value is not None and math.isfinite(value)]
    seen += [value for end in chart.band or () for value in end if value is not None and math.isfinite(value)]
    seen += [level.value for level in chart.levels]
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    if chart.log_y:
        return _Scale(0.6, max(high, 100.0) * 2.0, _HEIGHT - _BOTTOM, _TOP, log=True)
    room = (high - low or abs(high) or 1.0) * 0.1
    low = chart.floor if chart.floor is not None else low - room
    return _Scale(low, high + room, _HEIGHT - _BOTTOM, _TOP, log=False)


def _ticks(scale: _Scale, count: int) -> list[float]:
    if scale.log:
        first, last = math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high))
        every = max(1, math.ceil((last - first + 1) / count))
        powers = [10.0**power for power in range(first, last + 1, every)]
        return powers if len(powers) > 1 else [scale.low, scale.high]
    raw = (scale.high - scale.low) / count
    size = 10.0 ** math.floor(math.log10(raw)) if raw > 0.0 else 1.0
    step = next((size * times for times in (1.0, 2.0, 5.0, 10.0) if size * times >= raw), size)
    first = math.ceil(scale.low / step)
    return [step * number for number in range(first, math.floor(scale.high / step) + 1)]


def _grid(chart: Chart, x: _Scale, y: _Scale) -> list[Markup]:
    found = []
    for value in _ticks(y, 5):
        at = y.at(value)
        found.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, class_="grid"))
        found.append(element("text", chart.y_text(value), x=_LEFT - 6.0, y=at + 3.5, class_="end"))
    ticks = _ticks(x, 5) if chart.log_x else [x.low + (x.high - x.low) * part / 4 for part in range(5)]
    for number, value in enumerate(ticks):
        anchor = "" if number == 0 else "end" if number == len(ticks) - 1 else "middle"
        found.append(element("text", chart.x_text(value), x=x.at(value), y=_HEIGHT - 8.0, class_=anchor or None))
    return found


def _level(level: Level, y: _Scale) -> Markup:
    at = y.at(level.value)
    line = element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, class_=f"level {level.kind}")
    if not level.label:
        return line
    return joined(line, element("text", level.label, x=_LEFT + 5.0, y=at - 4.0, class_=f"on {level.kind}"))


def _mark(mark: ChartMark, x: _Scale) -> Markup:
    at = x.at(mark.at)
    line = element("line", x1=at, x2=at, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_=f"mark {mark.kind}")
    return element("g", element("title", mark.label), line, element("circle", cx=at, cy=_TOP, r=3.0, class_=mark.kind))


def _line(xs: Sequence[float], line: ChartLine, chosen: range, x: _Scale, y: _Scale) -> Markup:
    points: list[str] = []
    for index in chosen:
        value = line.values[index] if index < len(line.values) else None
        if value is None or not math.isfinite(value):
            continue
        points.append(_point(x.at(xs[index]), y.at(value)))
        if line.steps and index + 1 < len(xs):
            points.append(_point(x.at(xs[index + 1]), y.at(value)))
    return element("polyline", points=" ".join(points), class_=f"line {line.kind}")


def _band(chart: Chart, chosen: range, x: _Scale, y: _Scale) -> Markup:
    assert chart.band is not None
    lows, highs = chart.band
    known = [index for index in chosen if lows[index] is not None and highs[index] is not None]
    there = [_point(x.at(chart.x[index]), y.at(highs[index] or 0.0)) for index in known]
    back = [_point(x.at(chart.x[index]), y.at(lows[index] or 0.0)) for index in reversed(known)]
    return element("polygon", points=" ".join(there + back), class_="band")


def _point(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"
