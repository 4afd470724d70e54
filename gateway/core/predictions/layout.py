"""Which of a model's outputs is judged, found in stable's first answers, with the reason in words.

Rules:

1. What the configuration names is taken. Otherwise a label is one text or whole number per item that repeats, scores
   are two or more numbers per item, a value is one number with a fraction.
2. Of several labels the one with a class-like name comes first (names.py), then one that varies, then text before
   numbers, then the first. Bookkeeping by its name (ids, moments, versions), what hardly repeats (over `DISTINCT_MAX`
   of the answers differ) and whole numbers that are counters or times are not labels.
3. Texts such as ``0.973112:3:hen`` are Triton's classification extension, score:index:label: the label, or the index
   without one, of the best (first) one of an item. Such texts of one dimension are one item's.
4. The choice depends on these answers alone, so that it is the same for both versions and for everybody who asks again.
5. Where there is nothing to compare, `Choice.problem` says what was seen and which line of configuration would help.
6. ``surely``: nobody asked for predictions on this route, so only what cannot well be anything else is compared. An
   output of JSON of no known form needs a class-like name; scores need such a name, or to be probabilities (a vector of
   other numbers may be an embedding); free text is no label. A number is not compared, but the layout has it, so that
   answers without it are found.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from gateway.core.predictions.names import like_a_class, like_bookkeeping, like_scores
from gateway.core.predictions.outputs import Output, Value
from gateway.core.predictions.words import excerpt

DISTINCT_MAX = 0.8
# Whole numbers that change so often, and upwards in so large a part of the changes, are a counter or a clock.
_CHANGES_MIN, _UPWARDS_MIN = 6, 0.9
# Seconds since 1970 from 2001 on, and the same in ms, us and ns.
_CLOCKS = tuple((10**9 * unit, 42 * 10**8 * unit) for unit in (1, 10**3, 10**6, 10**9))
_PROBABILITY_SLACK = 0.01
_RANKED = re.compile(r"[+-]?(?:[0-9]{1,40}\.[0-9]{1,40}|nan|inf):([0-9]{1,18})(?::(.*))?\Z", re.DOTALL)
_OUTPUTS_SAID, _FIELDS_SAID = 4, 10
# The names of classes are shorter than sentences: half of the answers with longer text are taken for prose.
_LABEL_CHARS = 60
NAME_ANOTHER = "name an output that repeats, for example `predictions: {label: class}`"


class Layout(msgspec.Struct, frozen=True):
    """Which output says what; None where none does. ``ranked``: labels are score:index:label."""

    label: str | None = None
    scores: str | None = None
    value: str | None = None
    softmax: bool = False
    ranked: bool = False

    @property
    def names(self) -> list[str]:
        """The outputs that every answer must have."""
        return [name for name in (self.label, self.scores, self.value) if name is not None]

    @property
    def has_confidence(self) -> bool:
        """Whether answers say how sure they are."""
        return self.scores is not None or self.ranked


class Choice(msgspec.Struct, frozen=True):
    """A layout and why. ``problem``: why nothing can be compared, "" if something can."""

    layout: Layout
    reason: str = ""
    problem: str = ""


class _Candidate(msgspec.Struct, frozen=True):
    """One output over the first answers: the roles it may have, and why it is no label."""

    name: str
    roles: tuple[str, ...]
    items: list[Value]
    against: str = ""
    ranked: bool = False
    plain: bool = False

    @property
    def distinct(self) -> int:
        return len(set(self.items))

    @property
    def example(self) -> str:
        return excerpt(str(self.items[0]), 60) if self.items else ""


def choose(
    answers: Sequence[Sequence[Output]], named: Mapping[str, str], *, values: bool = False, surely: bool = False
) -> Choice:
    """The layout of these answers of stable's; ``named`` gives outputs by role (label, scores, value) beforehand.

    ``values``: numbers are compared, not classes; ``surely``: only what is surely a prediction is (rule 6).
    """
    seen = _candidates(answers, named)
    if surely:
        seen = [one if one.name in named.values() else _surely(one, answers) for one in seen]
    wanted = ("value",) if values else ("label", "scores")
    absent = [named[role] for role in wanted if role in named and named[role] not in {one.name for one in seen}]
    if absent:
        there = ", ".join(f"`{excerpt(one.name, 60)}`" for one in seen[:_FIELDS_SAID]) or "none"
        what = f"stable's answers have no output `{excerpt(absent[0], 60)}`, which the configuration names"
        return Choice(
            Layout(), "", f"{what}; there are: {there}; name one of these, or leave it out for an automatic choice"
        )
    layout, reasons = Layout(), []
    for role in wanted:
        found = named.get(role) or _best(role, seen)
        if found is None:
            continue
        one = next((one for one in seen if one.name == found), None)
        reasons.append(f"{role} from `{excerpt(found, 60)}` ({_why(role, one, named)})")
        layout = msgspec.structs.replace(layout, **{role: found})
        if role == "label" and one is not None and one.ranked:
            layout = msgspec.structs.replace(layout, ranked=True)
    if layout.scores is not None:
        layout = msgspec.structs.replace(layout, softmax=not _are_probabilities(answers, layout.scores))
    passed_over = [f"`{excerpt(one.name, 60)}` {one.against}" for one in seen if one.against][:_OUTPUTS_SAID]
    reason = "; ".join([*reasons, *([f"not judged: {', '.join(passed_over)}"] if passed_over else [])])
    if not layout.names:
        problem = _nothing(seen, passed_over, values=values)
        number = next((one.name for one in seen if surely and one.roles == ("value",)), None)
        return Choice(Layout(value=number), reason, problem)
    return Choice(layout, reason)


def _candidates(answers: Sequence[Sequence[Output]], named: Mapping[str, str]) -> list[_Candidate]:
    by_name: dict[str, list[Output]] = {}
    for answer in answers:
        for output in answer:
            by_name.setdefault(output.name, []).append(output)
    found = []
    for name, outputs in by_name.items():
        # An output that comes and goes is no part of the layout.
        if 2 * len(outputs) > len(answers) or name in named.values():
            one = _candidate(name, outputs, named=name in named.values())
            found.append(msgspec.structs.replace(one, plain=any(output.plain for output in outputs)))
    return found


def _candidate(name: str, outputs: Sequence[Output], *, named: bool) -> _Candidate:
    ranked = all(_ranked(output) for output in outputs if output.values)
    if ranked:
        outputs = [batched(output) for output in outputs]
    widths = {len(output.values) // output.rows for output in outputs if output.rows}
    kinds = {type(value) for output in outputs for value in output.values} - {type(None)}
    # The middle item: any rule that does not look at what it says would do.
    items = [row[0] for output in outputs if output.rows and (row := output.row(output.rows // 2))]
    if ranked and kinds == {str} and min(widths, default=0):
        items = [ranked_label(str(item)) for item in items]
        return _Candidate(name, ("label",), items, _against(name, items, named=True), ranked=True)
    numbers = kinds <= {int, float}
    if widths == {1} and kinds and (kinds <= {str} or kinds <= {bool} or kinds <= {int}):
        roles = ("label", "value") if kinds <= {int} else ("label",)
        return _Candidate(name, roles, items, _against(name, items, named=named))
    if widths == {1} and numbers and kinds:
        # Whole numbers with a fraction of zero are a class only where the name says so.
        if (named or like_a_class(name)) and all(map(_is_integral, items)) and not _against(name, items, named=named):
            return _Candidate(name, ("label", "value"), items)
        return _Candidate(name, ("value",), items)
    if min(widths, default=0) > 1 and numbers and float in kinds and all(len(output.shape) <= 2 for output in outputs):
        return _Candidate(name, ("scores",), items)
    return _Candidate(name, (), items, "is neither one label nor one vector of scores for each item" if kinds else "")


def _surely(one: _Candidate, answers: Sequence[Sequence[Output]]) -> _Candidate:
    """The output with the roles that it surely has (rule 6)."""
    roles, against = one.roles, one.against
    called = like_a_class(one.name) or like_scores(one.name)
    if one.plain and not called and roles:
        roles, against = (), against or "is not called a prediction"
    elif "label" in roles and _is_text(one) and _is_prose(one.items):
        roles, against = (), against or f"is free text (such as {one.example})"
    elif "scores" in roles and not like_scores(one.name) and not _are_probabilities(answers, one.name):
        roles, against = (), against or "is a vector of numbers, an embedding perhaps"
    return msgspec.structs.replace(one, roles=roles, against=against)


def _is_prose(items: Sequence[Value]) -> bool:
    texts = sorted(len(item) if "\n" not in item else _LABEL_CHARS + 1 for item in items if isinstance(item, str))
    return texts[len(texts) // 2] > _LABEL_CHARS


def _is_integral(item: Value) -> bool:
    return item is None or type(item) is int or (type(item) is float and math.isfinite(item) and item.is_integer())


def _against(name: str, items: list[Value], *, named: bool) -> str:
    """Why these items are no label; "" if they may be one."""
    example = f"such as {excerpt(str(items[0]), 60)}" if items else ""
    distinct = len(set(items))
    if distinct > DISTINCT_MAX * len(items) and len(items) > 1:
        return f"hardly repeats ({distinct} of {len(items)} differ, {example})"
    if named or like_a_class(name):
        return ""
    if like_bookkeeping(name):
        return f"looks like bookkeeping by its name ({example})"
    numbers = [item for item in items if type(item) is int or type(item) is float]
    if len(numbers) < len(items) or not numbers:
        return ""
    if any(all(low <= number <= high for number in numbers) for low, high in _CLOCKS):
        return f"looks like a time ({example})"
    changes = [after - before for before, after in itertools.pairwise(numbers) if after != before]
    if len(changes) >= _CHANGES_MIN and sum(change > 0 for change in changes) >= _UPWARDS_MIN * len(changes):
        return f"counts upwards ({example})"
    return ""


def _best(role: str, seen: Sequence[_Candidate]) -> str | None:
    fit = [one for one in seen if role in one.roles and not (role == "label" and one.against)]
    if role == "label":
        fit.sort(key=lambda one: (not like_a_class(one.name), one.distinct < 2, not _is_text(one)))
    else:
        fit.sort(key=lambda one: not like_scores(one.name))
    return fit[0].name if fit else None


def _is_text(one: _Candidate) -> bool:
    return any(isinstance(item, str) for item in one.items)


def _why(role: str, one: _Candidate | None, named: Mapping[str, str]) -> str:
    if role in named:
        return "configured"
    assert one is not None  # whatever was found has been seen
    if role != "label":
        return "by its name and shape" if like_scores(one.name) else "by its shape"
    form = "score:index:label" if one.ranked else "text" if _is_text(one) else "whole numbers"
    by_name = "class-like name, " if like_a_class(one.name) else ""
    return f"{by_name}{form}, {one.distinct} different in {len(one.items)} answers"


def _nothing(seen: Sequence[_Candidate], passed_over: Sequence[str], *, values: bool) -> str:
    """What was seen where nothing can be compared, and the line of configuration that would help."""
    if not seen:
        return "no output is present in most of stable's answers; see the protocol in docs/predictions.md"
    what = ", ".join(passed_over)
    if values:
        what = what or ", ".join(f"`{excerpt(one.name, 60)}` (such as {one.example})" for one in seen[:_OUTPUTS_SAID])
        example = f"`predictions: {{kind: values, value: {_key(seen[0].name)}}}`"
        return f"no output is one number for each item: {what}; name one, for example {example}"
    number = next((one for one in seen if one.roles == ("value",)), None)
    if number is not None:
        what = f"no output is a class; `{excerpt(number.name, 60)}` is a number (such as {number.example})"
        return f"{what}; to compare numbers: `predictions: {{kind: values, value: {_key(number.name)}}}`"
    return f"no output is a class that repeats: {what or 'the answers have no value'}; {NAME_ANOTHER}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) else '"' + excerpt(name, 60).replace('"', "'") + '"'


def _ranked(output: Output) -> bool:
    return all(isinstance(value, str) and _RANKED.match(value) for value in output.values)


def ranked_label(text: str) -> str:
    """The label of Triton's ``score:index:label``, or its index without one; any other text as it is.

    >>> ranked_label("0.973112:3:hen"), ranked_label("0.973112:3"), ranked_label("hen")
    ('hen', '3', 'hen')
    """
    found = _RANKED.match(text)
    return text if found is None else found[2] or found[1]


def ranked_score(text: str) -> float | None:
    """The score in Triton's ``score:index:label`` if it may be a probability."""
    found = _RANKED.match(text)
    score = float(text.partition(":")[0]) if found else -1.0
    return score if 0.0 <= score <= 1.0 else None


def batched(output: Output) -> Output:
    """An output of one dimension that speaks of one item, with the batch's dimension before it."""
    return Output(output.name, (1, *output.shape), output.values) if len(output.shape) == 1 else output


def _are_probabilities(answers: Sequence[Sequence[Output]], name: str) -> bool:
    outputs = [batched(output) for answer in answers for output in answer if output.name == name]
    rows = [numbers_of(output.row(index)) for output in outputs for index in range(output.rows)]
    return all(
        min(row) >= -_PROBABILITY_SLACK and abs(math.fsum(row) - 1.0) <= _PROBABILITY_SLACK
        for row in rows
        if row and all(map(math.isfinite, row))
    )


def numbers_of(item: Sequence[Value]) -> list[float]:
    """Those of the values that are numbers and no astronomical ones."""
    return [float(value) for value in item if isinstance(value, (int, float)) and abs(value) < 1e308]
