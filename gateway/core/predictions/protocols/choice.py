"""Which protocol an answer is in: what the configuration says, or, with ``auto``, by the path and the body.

Rules:

1. The path decides where it is one that servers of one protocol alone have (`_PATHS`), however it begins. An answer
   there that is not in this protocol is looked at by its body, because paths are copied; what is in no known form is
   JSON.
2. By its body an answer is what its members say (`_of_value`). ``predictions`` are KServe V1: MLflow's look the same.
3. Whichever variant gave the answer, the same rules decide, and nothing is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.core.predictions.failures import is_error
from gateway.core.predictions.outputs import Output, UndecodableError, WholeAnswer
from gateway.core.predictions.protocols import oip, openai, triton_generate
from gateway.core.predictions.protocols.adapter import AnswerClass, ProtocolAdapter, ProtocolName, Recognised
from gateway.core.predictions.protocols.kserve_v1 import KserveV1
from gateway.core.predictions.protocols.mlflow import MlflowScoring
from gateway.core.predictions.protocols.plain_json import PlainJson
from gateway.core.predictions.protocols.tables import TABLES, json_of

_ADAPTERS: Mapping[ProtocolName, ProtocolAdapter] = {
    ProtocolName.OIP: oip.OpenInference(),
    ProtocolName.KSERVE_V1: KserveV1(),
    ProtocolName.MLFLOW: MlflowScoring(),
    ProtocolName.OPENAI: openai.OpenAi(),
    ProtocolName.TRITON_GENERATE: triton_generate.TritonGenerate(),
    ProtocolName.JSON: PlainJson({}),
}
_VERSION = r"(?:/versions/[^/]+|/labels/[^/]+)?"
_PATHS = (
    (ProtocolName.OIP, re.compile(rf"/v2/models/[^/]+{_VERSION}/(?:infer|infer_stream)\Z")),
    (ProtocolName.TRITON_GENERATE, re.compile(rf"/v2/models/[^/]+{_VERSION}/(?:generate|generate_stream)\Z")),
    (ProtocolName.KSERVE_V1, re.compile(rf"/v1/models/[^/:]+{_VERSION}:(?:predict|classify|regress)\Z")),
    (ProtocolName.MLFLOW, re.compile(r"/invocations\Z")),
    (ProtocolName.OPENAI, re.compile(r"/(?:chat/completions|completions|embeddings|responses)\Z")),
)
_BODY, _PATH, _CONFIGURED = "body", "path", "configuration"


class AnswerReader:
    """A route's answers in the protocol that is configured; ``places`` are those of its outputs where it needs them."""

    def __init__(self, name: str, places: Mapping[str, str]) -> None:
        self._name = ProtocolName(name)
        self._fixed = PlainJson(places) if self._name is ProtocolName.JSON else _ADAPTERS.get(self._name)

    def recognise(self, answer: WholeAnswer) -> Recognised:
        """Which protocol the answer is in. Of a stream that has just begun the body is empty."""
        if self._fixed is not None:
            return Recognised(self._name, _CONFIGURED)
        name = of_path(answer.path)
        if name is not None and (not answer.body or _is_in(name, answer)):
            return Recognised(name, _PATH)
        return Recognised(_of_body(answer), _BODY)

    def adapter(self, recognised: Recognised) -> ProtocolAdapter:
        """What reads answers of this protocol on this route."""
        return _ADAPTERS[recognised.name] if self._fixed is None else self._fixed

    def classify(self, answer: WholeAnswer) -> AnswerClass:
        """What an answer is."""
        return self.adapter(self.recognise(answer)).classify(answer)

    def extract(self, answer: WholeAnswer) -> tuple[Recognised, list[Output]]:
        """Its protocol and its outputs. Raises UndecodableError."""
        if self._fixed is not None:
            return Recognised(self._name, _CONFIGURED), self._fixed.extract(answer)
        name = of_path(answer.path)
        if name in (None, ProtocolName.OIP):
            # It is parsed once, and fast, where it is in the protocol that most answers to be read are in.
            try:
                return Recognised(ProtocolName.OIP, _BODY if name is None else _PATH), oip.extract(answer)
            except UndecodableError:
                pass
        answer = _parsed(answer)
        found = self.recognise(answer)
        return found, self.adapter(found).extract(answer)

    def stream(self, path: str) -> ProtocolAdapter:
        """What reads the events of a stream that was asked for at this path."""
        if self._fixed is not None:
            return self._fixed
        return _ADAPTERS[of_path(path) or ProtocolName.JSON]


def of_path(path: str) -> ProtocolName | None:
    """The protocol whose servers alone have this path.

    >>> [str(of_path(path)) for path in ("/openai/v1/chat/completions", "/v1/models/a:predict", "/predict")]
    ['openai', 'kserve_v1', 'None']
    """
    return next((name for name, form in _PATHS if form.search(path)), None)


def _is_in(name: ProtocolName, answer: WholeAnswer) -> bool:
    """Whether an answer that was asked for at this protocol's path is in it."""
    if name is ProtocolName.OIP and answer.header_length.strip():
        return True
    try:
        tree = json_of(answer)
    except UndecodableError:
        return True  # it is nothing else, either
    if is_error(tree):
        return True
    found = _of_value(tree)
    if name is ProtocolName.MLFLOW:
        return found in (ProtocolName.KSERVE_V1, ProtocolName.OPENAI)
    return found is name


def _parsed(answer: WholeAnswer) -> WholeAnswer:
    """With its JSON, if its body is all JSON."""
    if answer.header_length.strip() or answer.value is not None:
        return answer
    try:
        return msgspec.structs.replace(answer, value=(json_of(answer),))
    except UndecodableError:
        return answer


def _of_body(answer: WholeAnswer) -> ProtocolName:
    if answer.header_length.strip():
        return ProtocolName.OIP
    try:
        return _of_value(json_of(answer))
    except UndecodableError:
        return ProtocolName.JSON


def _of_value(tree: object) -> ProtocolName:
    """By the members that an answer has."""
    if oip.is_oip(tree):
        return ProtocolName.OIP
    if openai.is_answer(tree):
        return ProtocolName.OPENAI
    if triton_generate.is_answer(tree):
        return ProtocolName.TRITON_GENERATE
    if isinstance(tree, dict) and any(key in tree for key in TABLES):
        return ProtocolName.KSERVE_V1
    return ProtocolName.JSON
