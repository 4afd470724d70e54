"""What an output's name says about it: models call their class, their scores and their bookkeeping by few names."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_CLASS = frozenset(
    ["class", "classes", "label", "labels", "category", "categories", "prediction", "predictions", "predicted", "pred"]
)
_SCORES = frozenset(
    [
        "score",
        "scores",
        "probability",
        "probabilities",
        "prob",
        "probs",
        "proba",
        "logit",
        "logits",
        "confidence",
        "softmax",
    ]
)
# Numbers of requests, moments and versions: they say nothing about what the model saw.
_KEEPING = frozenset(
    [
        "id",
        "ids",
        "uuid",
        "guid",
        "hash",
        "seq",
        "sequence",
        "index",
        "time",
        "timestamp",
        "ts",
        "date",
        "at",
        "created",
        "count",
        "version",
        "model",
        "ms",
        "us",
        "ns",
        "duration",
        "latency",
        "elapsed",
        "token",
        "tokens",
        "request",
        "trace",
        "span",
        "rows",
        "row",
    ]
)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name[:200])]


def like_a_class(name: str) -> bool:
    """Whether the name says that this is the predicted class.

    >>> [like_a_class(name) for name in ("class", "output_label", "predictedClass", "class_id", "prediction_time")]
    [True, True, True, True, False]
    """
    words = _words(name)
    if not _CLASS & set(words):
        return False
    keeping = _KEEPING & set(words)
    return not keeping or (keeping <= {"id", "index"} and words[-1] in keeping and words[-2:-1] != ["prediction"])


def like_scores(name: str) -> bool:
    """Whether the name says that these are scores or probabilities of the classes."""
    return bool(_SCORES & set(_words(name)))


def like_bookkeeping(name: str) -> bool:
    """Whether the name says that this is a number of a request, a moment or a version.

    >>> [like_bookkeeping(name) for name in ("request_id", "modelVersion", "seq", "class_id", "species")]
    [True, True, True, False, False]
    """
    return bool(_KEEPING & set(_words(name))) and not like_a_class(name)
