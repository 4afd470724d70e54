"""Messages of workers to the inspector, and between inspector and control: typed, as in `wire`.

Samples have a connection of their own, so that a flood of them never delays a report: frames of at most
`BATCH_BYTES_MAX` of bodies go from each worker to the inspector, who reads as fast as it can decode; what a worker
cannot get rid of it drops and counts. Evidence goes from the inspector to control as the same cumulative `Report` that
workers send.
"""

from __future__ import annotations

import asyncio
import enum

import msgspec

from gateway.core.predictions.events import Known, Watched
from gateway.core.predictions.protocols.adapter import Recognised
from gateway.core.predictions.settings import RouteWatch
from gateway.runtime.wire import Report, frame, read_frame

BATCH_BYTES_MAX = 1 << 20
LABELS_MAX = 1000
SOCKET_NAME = "inspector.sock"
# With an event's name behind it: the sampler's count of answers that had the event's header, whatever its value.
HEADER_SEEN = "header:"
# Counted by the sampler beside what became of a sample: how many were taken for their predictions.
FOR_PREDICTIONS = "for_predictions"


# What an answer was sampled for (`Sample.purposes`): its predictions, and failures inside of it.
PREDICTIONS, FAILURES = 1, 2


class Part(enum.IntEnum):
    """Which part of an answer a sample is, and how the answer ended.

    ``ENDED`` ended well; ``FIRST`` and ``MORE`` are the beginning and the middle of a stream, of which more follows;
    ``LEFT`` is as much as there was when the client left, the backend broke off, or the limit of what is read was
    reached; ``LOST`` says that a part of the stream was dropped on the way, so that nothing can be said of it.
    """

    ENDED = 0
    MORE = 1
    LEFT = 2
    LOST = 3
    FIRST = 4


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """An answer of the variant that its request was assigned to, or a part of one.

    ``stream`` is 0, or a number that the parts of one streamed answer have in common. ``cut``: ``body`` is only the
    beginning of what was relayed. ``path`` is the one that the client asked for. ``request`` is the request's body
    where data are checked, and None where it was not whole in memory.
    """

    route: str
    epoch: int
    weight_bp: int
    variant: int
    body: bytes
    content_type: str
    encoding: str
    header_length: str
    purposes: int = PREDICTIONS
    stream: int = 0
    part: Part = Part.ENDED
    cut: bool = False
    path: str = ""
    request: bytes | None = None


class Served(msgspec.Struct, frozen=True, array_like=True):
    """A request that may be labelled from now on."""

    route: str
    epoch: int
    weight_bp: int
    variant: int
    request_id: str


class PairedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One version's whole answer to a request that both have met."""

    body: bytes
    content_type: str
    encoding: str
    header_length: str


class AnswerPair(msgspec.Struct, frozen=True, array_like=True):
    """Both versions' answers to one mirrored request; ``path`` is the client's."""

    route: str
    epoch: int
    weight_bp: int
    path: str
    number_tolerance: float
    stable: PairedAnswer
    canary: PairedAnswer


class Batch(msgspec.Struct, frozen=True, tag=True):
    """What a worker has gathered since its last one."""

    samples: list[Sample]
    served: list[Served]
    pairs: list[AnswerPair] = []


class Watching(msgspec.Struct, frozen=True, tag=True):
    """Control's first message, and again when the configuration changes: the routes to look at.

    ``known`` is what an earlier inspector had learnt of them, so that what is compared outlives it.
    """

    routes: dict[str, RouteWatch]
    known: dict[str, Known] = {}


class Label(msgspec.Struct, frozen=True, array_like=True):
    """One business event: whether it happened, or a value."""

    request_id: str
    name: str
    value: bool | float


class Labels(msgspec.Struct, frozen=True, tag=True):
    """Business events of one route that came to the admin API together."""

    route: str
    labels: list[Label]


class ReportTaken(msgspec.Struct, frozen=True, tag=True):
    """Control has taken in the report of this number."""

    seq: int


class Example(msgspec.Struct, frozen=True, array_like=True):
    """The newest example of a kind, and its epoch."""

    epoch: int
    text: str


class AnswersRead(msgspec.Struct, array_like=True):
    """What was found in one variant's answers: how many were read, failures by kind, unread ones by reason.

    ``texts`` were a language model's; ``tokens`` are theirs, by kind.
    """

    read: int = 0
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    unread: dict[str, int] = msgspec.field(default_factory=dict)
    examples: dict[str, Example] = msgspec.field(default_factory=dict)
    texts: int = 0
    tokens: dict[str, int] = msgspec.field(default_factory=dict)


class Validated(msgspec.Struct, frozen=True, array_like=True):
    """What a validator said of one window. ``result`` is its own JSON; ``failures`` says what failed, in words."""

    number: int
    epoch: int
    variant: int
    success: bool
    failures: tuple[str, ...]
    result: str


class DataChecked(msgspec.Struct, array_like=True):
    """A route's windows: judged and failed ones of stable and of canary, lost ones by reason, and what is wrong now.

    ``fresh`` are the results that control has not confirmed yet.
    """

    judged: tuple[int, int] = (0, 0)
    failed: tuple[int, int] = (0, 0)
    lost: dict[str, int] = msgspec.field(default_factory=dict)
    problem: str = ""
    fresh: list[Validated] = msgspec.field(default_factory=list)


class Inspected(msgspec.Struct, frozen=True, tag=True):
    """All the inspector knows.

    ``results`` counts samples by route and what became of them, ``labels`` business events by route, name and result;
    ``meanings`` says in words what each slot of a route's mix stands for; ``watched`` which outputs are compared, and
    what cannot be judged; ``answers`` what was found in stable's and in the canary's answers, by route; ``protocols``
    how many answers were in which protocol, and how that was known; ``data`` what validators said of windows of data.
    """

    report: Report
    results: dict[str, dict[str, int]]
    labels: dict[str, dict[str, dict[str, int]]]
    meanings: dict[str, dict[str, str]]
    watched: dict[str, Watched] = {}
    answers: dict[str, tuple[AnswersRead, AnswersRead]] = {}
    protocols: dict[str, list[tuple[Recognised, int]]] = {}
    data: dict[str, DataChecked] = {}


ToInspector = Batch | Watching | Labels | ReportTaken
Message = ToInspector | Inspected

_encoder = msgspec.msgpack.Encoder()
_to_inspector = msgspec.msgpack.Decoder(ToInspector)
_inspected = msgspec.msgpack.Decoder(Inspected)


def encode(message: Message) -> bytes:
    """One frame, ready to be written."""
    return frame(_encoder.encode(message))


async def read_message(reader: asyncio.StreamReader) -> ToInspector:
    """The inspector's next message; asyncio.IncompleteReadError at the end, ValueError when it is broken."""
    message: ToInspector = _to_inspector.decode(await read_frame(reader))
    return message


async def read_inspected(reader: asyncio.StreamReader) -> Inspected:
    """Control's next message; errors as above."""
    return _inspected.decode(await read_frame(reader))
