"""A tiny text model: an n-gram of words that writes one word after another, by chance.

The file is JSON (models/train_text.py makes it): ``words``, and for each context of ``order`` - 1 of them the numbers
of the words that followed it and how often. Word 0 is the start of a text, word 1 its end.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.serving.errors import ModelLoadError

FORMAT = "word-ngram"
_START, _END = 0, 1
_MARKS = frozenset(".,;:?!%")


class _File(msgspec.Struct):
    format: str
    name: str
    version: str
    order: int
    words: list[str]
    counts: dict[str, list[int]]


class TextModel:
    """A loaded model."""

    def __init__(self, name: str, version: str, order: int, words: list[str], counts: dict[str, list[int]]) -> None:
        self.name = name
        self.version = version
        self._words = words
        self._numbers = {word.lower(): number for number, word in enumerate(words)}
        self._start = (_START,) * (order - 1)
        self._next = {tuple(map(int, key.split())): _following(pairs) for key, pairs in counts.items()}
        if self._start not in self._next:
            raise ModelLoadError("the model has no context that a text could begin with")

    @classmethod
    def load(cls, path: str | Path, *, name: str | None = None, version: str | None = None) -> TextModel:
        """Load a file; ModelLoadError says in one line why it cannot be served."""
        try:
            read = msgspec.json.decode(Path(path).read_bytes(), type=_File)
            if read.format != FORMAT or read.order < 2:
                raise ModelLoadError(f"its format is {read.format!r}, not {FORMAT!r} of order 2 or more")
            return cls(name or read.name, version or read.version, read.order, read.words, read.counts)
        except OSError as error:
            raise ModelLoadError(f"{path}: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, IndexError, ModelLoadError) as error:
            raise ModelLoadError(f"{path}: not a text model that can be loaded: {error}") from None

    def tokens_of(self, text: str) -> int:
        """How many tokens a prompt has."""
        return len(text.split())

    def write(self, prompt: str, draw: random.Random, sentences: int = 2) -> Iterator[str]:
        """The tokens of a text of so many sentences that goes on from the prompt's last word, where it is known."""
        context = self._begin(prompt)
        first = True
        for _ in range(sentences):
            while True:
                numbers, sums = self._next[context]
                number = numbers[bisect.bisect_right(sums, draw.random() * sums[-1])]
                if number == _END:
                    break
                word = self._words[number]
                yield word if first or word in _MARKS else f" {word}"
                first = False
                context = (*context[1:], number)
            context = self._start

    def _begin(self, prompt: str) -> tuple[int, ...]:
        last = prompt.split()[-1:]
        number = self._numbers.get(last[0].lower(), _START) if last else _START
        context = (*self._start[1:], number)
        return context if context in self._next else self._start


def _following(pairs: list[int]) -> tuple[list[int], list[int]]:
    """The words that may follow, and the running sums of their counts."""
    counts = pairs[1::2]
    if not counts or len(counts) * 2 != len(pairs) or min(counts) < 1:
        raise ValueError("a context without words, or with counts that are none")
    return pairs[::2], list(itertools.accumulate(counts))
