"""One route's sampled answers, read for failures inside of them. No I/O: each part is an argument.

Rules:

1. Each sampled answer is read once, as far as it was sampled: it is a trial of `MODEL_ERRORS`, and it happened when the
   answer has a failure that counts on this route (usual.py).
2. An answer whose coding cannot be undone is unread: no trial of that, and a yes of `UNREAD_ANSWERS`, of which every
   answer is a trial. Images and other data need no undoing: that they are there is what can be said of them. Only where
   stable's answers to the same requests can be read is a coding that is broken a failure (`BROKEN`, usual.py).
3. Streams are read as they come, each in bounded memory (event_stream.py), at most `OPEN_MAX` at once. Beyond that no
   new one is begun, whatever it would say. A stream of which a part was dropped is no trial.
4. A whole answer is classified by its protocol as well: whose doing an error object is, and whether it lacks what an
   answer of this protocol must have.
5. What a language model said is read in the same answers (text_events.py), of those that came to their end.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec

from gateway.core.predictions.event_stream import StreamReader, reader_of
from gateway.core.predictions.failures import (
    BROKEN,
    BROKEN_CODING,
    CLIENT_ERROR,
    ERROR,
    HTML,
    JSON,
    MODEL_ERRORS,
    OVERLOAD,
    TEXT,
    UNREAD_ANSWERS,
    ReadAnswer,
    family_of,
    read_answer,
    without_results,
)
from gateway.core.predictions.outputs import WholeAnswer
from gateway.core.predictions.protocols import openai, triton_generate
from gateway.core.predictions.protocols.adapter import AnswerClass, Recognised
from gateway.core.predictions.protocols.choice import AnswerReader
from gateway.core.predictions.protocols.plain_json import read_any
from gateway.core.predictions.text_answers import TextFacts, TextReader
from gateway.core.predictions.text_events import COMPLETION_TOKENS, PROMPT_TOKENS, TextSettings, TextWatch
from gateway.core.predictions.usual import FailureRules
from gateway.core.types import Variant
from gateway.inspector.decoding import Decoder, UnreadError, beginning
from gateway.runtime.samples import FAILURES, PREDICTIONS, AnswersRead, Example, Part, Sample

OPEN_MAX = 2_000
_STREAM_BYTES_MAX = 64 << 20
_WORDS = (JSON, HTML, TEXT, "")
_KIND_OF = {AnswerClass.CLIENT_ERROR: CLIENT_ERROR, AnswerClass.OVERLOAD: OVERLOAD}
# Without one of these members a whole answer is no language model's.
_TEXT_MEMBERS = (b'"choices"', b'"output"', b'"text_output"', b'"generated_text"', b'"stop_reason"', b'"done"')


class AnswerEvents(NamedTuple):
    """What is known by an answer: yes/no events and whether they happened, and numbers."""

    labels: list[tuple[str, bool]]
    values: list[tuple[str, float]] = []  # noqa: RUF012  # of a tuple, never added to


class _Stream:
    """One stream that is under way; ``unread`` says why it cannot be read."""

    def __init__(self, reader: StreamReader, codings: str) -> None:
        self._reader = reader
        self._decoder: Decoder | None = None
        self.unread: UnreadError | None = None
        try:
            self._decoder = Decoder(codings, _STREAM_BYTES_MAX)
        except UnreadError as error:
            self.unread = error

    def feed(self, piece: bytes) -> None:
        """The next piece."""
        if self._decoder is not None and self.unread is None:
            try:
                self._reader.feed(self._decoder.feed(piece))
            except UnreadError as error:
                self.unread = error

    def seen(self, *, ended: bool) -> ReadAnswer:
        """What was in it. Raises UnreadError."""
        if self.unread is None and ended and self._decoder is not None:
            self._decoder.end()
        if self.unread is not None:
            raise self.unread
        return self._reader.seen(ended=ended)

    @property
    def facts(self) -> TextFacts | None:
        """What a language model said in it."""
        return self._reader.facts


class SampledAnswers:
    """One route's answers, and what was found in them: ``found`` of stable's and of the canary's."""

    def __init__(
        self,
        decoded_bytes_max: int,
        reader: AnswerReader,
        protocols: Counter[Recognised],
        texts: TextSettings | None = None,
    ) -> None:
        self._limit = decoded_bytes_max
        self._reader = reader
        self._protocols = protocols
        self.texts = None if texts is None else TextWatch(texts)
        self._usual = FailureRules()
        self._open: dict[tuple[int, int], _Stream] = {}
        self.found = (AnswersRead(), AnswersRead())

    def take(self, sample: Sample, source: int) -> AnswerEvents:
        """A part of an answer: what is known by it. ``source``: the connection."""
        try:
            seen, facts = self._stream(sample, source) if sample.stream else self._whole(sample)
        except UnreadError as error:
            return AnswerEvents(self.unread(sample, error))
        if seen is None:
            return AnswerEvents([])
        labels = self._read(sample, seen)
        ended = sample.part is Part.ENDED and not sample.cut
        if facts is None or not ended or self.texts is None:
            return AnswerEvents(labels)
        said = self.texts.take(Variant(sample.variant), facts)
        self._count_tokens(self.found[sample.variant], facts)
        return AnswerEvents([*labels, *said.labels], said.values)

    @staticmethod
    def _count_tokens(found: AnswersRead, facts: TextFacts) -> None:
        found.texts += 1
        for name, tokens in ((PROMPT_TOKENS, facts.prompt_tokens), (COMPLETION_TOKENS, facts.completion_tokens)):
            if tokens is not None:
                found.tokens[name] = found.tokens.get(name, 0) + tokens

    def unread(self, sample: Sample, error: UnreadError) -> list[tuple[str, bool]]:
        """An answer that cannot be read."""
        found = self.found[sample.variant]
        found.unread[error.reason] = found.unread.get(error.reason, 0) + 1
        found.examples[error.reason] = Example(sample.epoch, str(error))
        events = [(UNREAD_ANSWERS, True)]
        if error.reason == BROKEN_CODING and sample.purposes & FAILURES:
            seen = ReadAnswer(family_of(sample.content_type), frozenset((BROKEN,)), str(error))
            if self._judged(sample, seen):
                events.append((MODEL_ERRORS, True))
        return events

    def gone(self, source: int) -> None:
        """No more comes of this source's streams."""
        for key in [key for key in self._open if key[0] == source]:
            del self._open[key]

    def _read(self, sample: Sample, seen: ReadAnswer) -> list[tuple[str, bool]]:
        self.found[sample.variant].read += 1
        return [(MODEL_ERRORS, self._judged(sample, seen)), (UNREAD_ANSWERS, False)]

    def _judged(self, sample: Sample, seen: ReadAnswer) -> bool:
        """Whether this answer is a failure, before it is learnt from."""
        found, failure = self.found[sample.variant], self._usual.failure(seen)
        if failure is not None:
            found.failures[failure] = found.failures.get(failure, 0) + 1
            found.examples[failure] = Example(sample.epoch, self._usual.example(seen, failure))
        if sample.variant == Variant.STABLE:
            self._usual.learn(seen)
        return failure is not None

    def _whole(self, sample: Sample) -> tuple[ReadAnswer, TextFacts | None]:
        family, ended = family_of(sample.content_type), sample.part is Part.ENDED and not sample.cut
        reader = reader_of(family)
        if reader is not None:  # a stream that is short
            self._protocols[self._reader.recognise(WholeAnswer(b"", path=sample.path))] += 1
            stream = _Stream(reader, sample.encoding)
            stream.feed(sample.body)
            return stream.seen(ended=ended), stream.facts
        if family not in _WORDS:
            return read_answer(sample.content_type, sample.body, whole=ended), None
        body, whole = beginning(sample.encoding, sample.body, self._limit, cut=not ended)
        seen = read_answer(sample.content_type, body, whole=ended, cut=not whole)
        if seen.value is None:
            return seen, None
        facts = _facts_of(body, seen.value[0]) if self.texts is not None and not seen.kinds else None
        return self._classified(sample, body, seen), facts

    def _classified(self, sample: Sample, body: bytes, seen: ReadAnswer) -> ReadAnswer:
        """A whole answer in JSON, by its protocol (rule 4)."""
        answer = WholeAnswer(body, sample.content_type, sample.header_length, sample.path, value=seen.value)
        protocol = self._reader.recognise(answer)
        if not sample.purposes & PREDICTIONS:  # else it is counted where it is read for these
            self._protocols[protocol] += 1
        found = self._reader.adapter(protocol).classify(answer)
        if ERROR in seen.kinds and found in _KIND_OF:
            return msgspec.structs.replace(seen, kinds=frozenset((_KIND_OF[found],)))
        return without_results(body, seen.value) if found is AnswerClass.MODEL_ERROR and not seen.kinds else seen

    def _stream(self, sample: Sample, source: int) -> tuple[ReadAnswer | None, TextFacts | None]:
        key = (source, sample.stream)
        if sample.part is Part.FIRST:
            reader = reader_of(family_of(sample.content_type))
            self._protocols[self._reader.recognise(WholeAnswer(b"", path=sample.path))] += 1
            if reader is not None and len(self._open) < OPEN_MAX:
                self._open[key] = _Stream(reader, sample.encoding)
        stream = self._open.get(key)
        if stream is None:
            return None, None
        stream.feed(sample.body)
        if sample.part in (Part.FIRST, Part.MORE):
            return None, None
        del self._open[key]
        if sample.part is Part.LOST:
            return None, None
        return stream.seen(ended=sample.part is Part.ENDED), stream.facts


def _facts_of(body: bytes, tree: object) -> TextFacts | None:
    """What a language model said in a whole answer; None for any other JSON."""
    if not isinstance(tree, dict) or not any(member in body for member in _TEXT_MEMBERS):
        return None
    if openai.is_answer(tree):
        event = openai.whole_answer(tree)
    else:
        event = read_any(tree, "") if triton_generate.is_answer(tree) or "done" in tree else None
    if event is None:
        return None
    reader = TextReader()
    reader.add(event)
    return reader.facts()
