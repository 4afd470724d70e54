"""Streams are read the same however their bytes are cut, in bounded memory."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import pairwise

import pytest

from gateway.core.predictions.event_stream import LINE_BYTES_MAX, EventReader, LinesReader, StreamReader, reader_of
from gateway.core.predictions.failures import CUT, ERROR, INVALID, NAN, NO_EVENTS, NOTHING, UNFINISHED, ReadAnswer

ERROR_DATA = b'{"error": {"message": "worker died \xc3\xa4\xe2\x82\xac", "code": 500}}'
TOKEN = b'data: {"choices": [{"delta": {"content": "\xc3\xa4 b"}, "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
LONG = b'data: {"text": "' + b"x" * (1 << 20) + b'"}\n\n'

EVENT_STREAMS: dict[str, tuple[bytes, str | None]] = {
    "good": (TOKEN * 3 + DONE, None),
    "finished by its reason": (TOKEN * 3 + LAST, None),
    "finished by an event's name": (TOKEN + b'event: message_stop\ndata: {"type": "message_stop"}\n\n', None),
    "no end": (TOKEN * 3, UNFINISHED),
    "[DONE] without the blank line": (TOKEN + b"data: [DONE]", None),
    "[DONE] with half of it": (TOKEN + b"data: [DONE]\n", None),
    "one error": (b"data: " + ERROR_DATA + b"\n\n", ERROR),
    "an error in the middle": (TOKEN * 2 + b"data: " + ERROR_DATA + b"\n\n" + TOKEN + DONE, ERROR),
    "an error by its name": (TOKEN + b"event: error\ndata: worker died\n\n" + DONE, ERROR),
    "an error by its name, without data": (b"event: error\n\n", ERROR),
    "an error in several lines": (b'data: {"error":\ndata: "worker died"}\n\n', ERROR),
    "an error without blanks": (b"data:" + ERROR_DATA + b"\n\n" + DONE, ERROR),
    "finished by an error": (TOKEN + b'data: {"choices": [{"finish_reason": "error"}]}\n\n' + DONE, ERROR),
    "a mark, comments, ids and retries": (
        b"\xef\xbb\xbf: hello\nretry: 5\nid: 7\n" + TOKEN + b":\n\n: ping\n\n" + DONE,
        None,
    ),
    "a mark and an error": (b"\xef\xbb\xbfdata: " + ERROR_DATA + b"\n\n", ERROR),
    "an error in a comment": (TOKEN + b": " + ERROR_DATA + b"\n\n" + DONE, None),
    "an error as text": (b'data: {"text": "{\\"error\\": \\"x\\"}"}\n\n' + DONE, None),
    "numbers called error": (b'data: {"error": 0.5}\n\n' + DONE, None),
    "NaN": (b'data: {"score": NaN}\n\n' + DONE, NAN),
    "cut in an event": (TOKEN + TOKEN[:-2], CUT),
    "cut in a line": (TOKEN + TOKEN[:-9], CUT),
    "cut before the blank line": (TOKEN + TOKEN[:-1], CUT),
    "empty": (b"", NO_EVENTS),
    "no event but the end": (DONE, NOTHING),
    "comments and the end": (b": ping\n\n" + DONE, NOTHING),
    "the end alone, cut": (b"data: [DONE]", NOTHING),
    "comments alone": (b": ping\n\n: ping\n\n", NO_EVENTS),
    "blank lines alone": (b"\n\n\n", NO_EVENTS),
    "usage after the last choice": (LAST + b'data: {"choices": [], "usage": {}}\n\n' + DONE, None),
}
LINES: dict[str, tuple[bytes, str | None]] = {
    "good": (b'{"response": "a"}\n{"response": "b", "done": true}\n', None),
    "the last line has no end": (b'{"response": "a"}\n{"response": "b", "done": true}', None),
    "an error": (b'{"response": "a"}\n' + ERROR_DATA + b"\n", ERROR),
    "an error without an end": (b'{"response": "a"}\n' + ERROR_DATA, ERROR),
    "cut": (b'{"response": "a"}\n{"respo', CUT),
    "broken": (b'{"response": "a"\n{"done": true}\n', INVALID),
    "no end": (b'{"response": "a"}\n', UNFINISHED),
    "empty": (b"", NO_EVENTS),
    "blank": (b"\n \n", NO_EVENTS),
}
ENDS = (b"\n", b"\r\n", b"\r")


def read(reader: StreamReader, pieces: list[bytes], *, ended: bool = True) -> ReadAnswer:
    for piece in pieces:
        reader.feed(piece)
    return reader.seen(ended=ended)


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(places), len(data)])]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("case", EVENT_STREAMS)
def test_event_streams_at_every_cut(case: str, end: bytes) -> None:
    data, kind = EVENT_STREAMS[case]
    data = data.replace(b"\n", end)
    whole = read(EventReader(), [data])
    assert whole.kinds == ({kind} if kind else set()), whole
    for at in range(len(data) + 1):
        assert read(EventReader(), [data[:at], b"", data[at:]]) == whole, at
    assert read(EventReader(), [data[at : at + 1] for at in range(len(data))]) == whole
    for seed in range(20):
        draw = random.Random(seed)
        places = [draw.randint(0, len(data)) for _ in range(draw.randint(2, 9))]
        assert read(EventReader(), cut_at(data, places)) == whole, seed


@pytest.mark.parametrize("case", LINES)
def test_json_lines_at_every_cut(case: str) -> None:
    data, kind = LINES[case]
    whole = read(LinesReader(), [data])
    assert whole.kinds == ({kind} if kind else set()), whole
    for at in range(len(data) + 1):
        assert read(LinesReader(), [data[:at], data[at:]]) == whole, at


def test_mixed_line_ends_are_read_as_they_stand() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        data = (TOKEN * 2 + b"data: " + ERROR_DATA + b"\n\n" + TOKEN).replace(b"\n", b"\0")
        ended = b"".join(draw.choice((b"\n", b"\r\n")) if byte == 0 else bytes((byte,)) for byte in data)
        pieces = cut_at(ended, [draw.randint(0, len(ended)) for _ in range(5)])
        assert read(EventReader(), pieces).kinds == {ERROR}, seed


def test_a_client_that_leaves_cuts_nothing() -> None:
    assert read(EventReader(), [TOKEN, TOKEN[:-9]], ended=False).kinds == set()
    assert read(EventReader(), [], ended=False).kinds == set()
    assert read(EventReader(), [TOKEN + b"data: " + ERROR_DATA + b"\n\n"], ended=False).kinds == {ERROR}


def test_an_error_far_into_a_long_stream_is_found() -> None:
    stream = TOKEN * 20_000 + b"data: " + ERROR_DATA + b"\n\n" + TOKEN * 10 + DONE
    pieces = [stream[at : at + 8192] for at in range(0, len(stream), 8192)]
    seen = read(EventReader(), pieces)
    assert seen.kinds == {ERROR} and "worker died" in seen.example


def test_events_of_any_length_take_bounded_memory() -> None:
    endless = [b"data: "] + [b"x" * 8192] * 200
    many = [b"data: xxxxxxxxxxxxxxx\n" * 400] * 60
    for pieces in (endless, many):
        reader = EventReader()
        tracemalloc.start()
        for piece in pieces:
            reader.feed(piece)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert taken < 8 * LINE_BYTES_MAX
    assert read(EventReader(), [LONG, b"data: " + ERROR_DATA + b"\n\n"]).kinds == {ERROR}
    long_error = json.dumps({"error": {"message": "oom", "trace": "x" * (1 << 20)}}).encode()
    assert read(EventReader(), [b"data: " + long_error + b"\n\n"]).kinds == {ERROR}


def test_readers_by_family() -> None:
    assert isinstance(reader_of("event stream"), EventReader) and isinstance(reader_of("json lines"), LinesReader)
    assert reader_of("json") is None
