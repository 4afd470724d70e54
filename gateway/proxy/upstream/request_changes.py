"""What a backend's requests say other than the client's: its path, its name of the model, fields set and removed.

Rules:

1. Changes are the backend's, so they are made for each attempt anew: stable gets its own form of a request that the
   canary got in another.
2. The path is compared as the client wrote it, by whole segments (`/v1/models/digits` is also before `:predict`), and
   the query stays. A path that begins otherwise stays as it is.
3. The model's name takes the place of the one behind `/v1/models/` or `/v2/models/`, and of the member ``model`` of a
   JSON object. It is looked for in what is held of the body when the request is sent (all of it, unless it is larger
   than the gateway waits for), and nowhere else: names within strings and nested objects are others'.
4. A field that is set takes the place of the client's fields of that name. Its value may be a secret: it is read from
   the environment or a file by the worker, is in no table, no log and no message, and follows its file within a second.
   A file that cannot be read leaves the last value in force; without one the field is missing.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Final

from gateway.core.traffic.table import RequestChanges
from gateway.proxy.heads.message_head import RequestHead
from gateway.proxy.heads.request import Request
from gateway.runtime.file_marks import Marks, marks_of
from gateway.runtime.header_values import HeaderValueError, header_value

_LOG: Final = logging.getLogger("gateway.proxy")
_RENEW_S: Final = 1.0
_MODEL_IN_PATH: Final = re.compile(rb"(.*?/v[12]/models/)[^/:?]+")
# A JSON string, or one step into or out of an object or a list; all else is passed over.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_NAMED: Final = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*")')
_OBJECT: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*\{")
_MODEL: Final = (b'"model"',)


class ChangedRequest:
    """A request as a backend gets it: what stands in the head, and the first pieces of its body.

    ``asked`` is the client's name of the model where that is another one, as a JSON text; empty otherwise.
    """

    __slots__ = ("asked", "pieces", "request", "size")

    def __init__(self, request: Request, pieces: list[bytes], size: int, asked: bytes) -> None:
        self.request = request
        self.pieces = pieces
        self.size = size
        self.asked = asked


class RequestChanger:
    """The changes of one backend, ready to be made."""

    __slots__ = ("_files", "_lines", "_marks", "_model", "_next_s", "_path", "_removed", "backend", "spec")

    def __init__(self, spec: RequestChanges, backend: str) -> None:
        self.spec = spec
        self.backend = backend
        self._path: tuple[bytes, bytes] | None = None
        if spec.path_prefix is not None:
            replacement = (spec.path_replacement or "").rstrip("/")
            self._path = (spec.path_prefix.rstrip("/").encode(), replacement.encode())
        self._model = (spec.model or "").encode()
        replaced = [one.name for one in spec.set_headers]
        self._removed = frozenset(name.encode() for name in (*spec.remove_headers, *replaced))
        self._files = [one.value_file for one in spec.set_headers if one.value_file is not None]
        self._marks: Marks = ()
        self._next_s = 0.0
        self._lines: dict[str, bytes] = {}
        self._read_values()

    def change(self, request: Request, pieces: list[bytes], size: int, now_s: float) -> ChangedRequest:
        """The request as this backend gets it; ``pieces`` of ``size`` bytes are what is held of its body."""
        if self._files and now_s >= self._next_s:
            self._next_s = now_s + _RENEW_S
            if marks_of(self._files) != self._marks:
                self._read_values()
        head = request.head
        assert head is not None  # it was admitted
        changed = Request(request.method, request.version, keep_alive=request.keep_alive)
        changed.target, changed.path = self._target_of(request.target), request.path
        changed.head = self._head_of(head)
        asked = self._asked_in_path(request.target) if self._model else b""
        if self._model and pieces and _is_json(head):
            held = b"".join(pieces)
            renamed = with_model(held, self._model)
            if renamed is not None:
                body, asked = renamed
                changed.head.lengthen(len(body) - len(held))
                return ChangedRequest(changed, [body], len(body), asked)
        return ChangedRequest(changed, pieces, size, asked)

    def _asked_in_path(self, target: bytes) -> bytes:
        """The client's name of the model, if it stands in the path as it is written in JSON."""
        found = _MODEL_IN_PATH.match(target.partition(b"?")[0])
        name = b"" if found is None else target[found.end(1) : found.end()]
        return quoted(name) if name and b"%" not in name else b""

    def _target_of(self, target: bytes) -> bytes:
        path, question, query = target.partition(b"?")
        if self._path is not None:
            prefix, replacement = self._path
            rest = path[len(prefix) :]
            if path.startswith(prefix) and (not rest or rest[:1] in (b"/", b":")):
                path = replacement + rest or b"/"
        if self._model and (found := _MODEL_IN_PATH.match(path)):
            path = found.group(1) + self._model + path[found.end() :]
        return path + question + query

    def _head_of(self, head: RequestHead) -> RequestHead:
        if not self._removed:
            return head.with_lines(head.lines)
        lines = b"".join(head.lines).split(b"\r\n")
        kept = [line + b"\r\n" for line in lines if line and _name_of(line) not in self._removed]
        return head.with_lines([*kept, *self._lines.values()])

    def _read_values(self) -> None:
        self._marks = marks_of(self._files)
        for one in self.spec.set_headers:
            try:
                value = header_value(one, os.environ)
            except HeaderValueError as error:
                kept = "the last value stays" if one.name in self._lines else "the field is not sent"
                _LOG.warning("backend %s: header %s: %s: %s", self.backend, one.name, error, kept)
                continue
            self._lines[one.name] = one.name.encode() + b": " + one.prefix.encode("latin-1") + value + b"\r\n"


def with_model(body: bytes, model: bytes) -> tuple[bytes, bytes] | None:
    """A JSON object with this text as its member ``model``, byte for byte the same otherwise; and what it was before.

    None where it has none (or none yet), where that is no text, and for anything but an object. What it was is the JSON
    text, with its quotes.
    """
    span = name_span(body, _MODEL)
    if span is None:
        return None
    start, end = span
    return body[:start] + quoted(model) + body[end:], body[start:end]


def name_span(body: bytes, names: Sequence[bytes], inner: bytes = b"") -> tuple[int, int] | None:
    """Where the text stands that one of these members of a JSON object has, or of the object ``inner`` in it.

    None as for `with_model`. All names, and what is found, include the quotes.
    """
    depth = at = 0
    within = 1  # the depth of the object whose members are looked at
    while (found := _TOKEN.search(body, at)) is not None:
        token, at = found.group(), found.end()
        if token in (b"{", b"["):
            if not depth and (token == b"[" or body[: found.start()].strip()):
                return None
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
            within = min(within, depth)
            if depth <= 0:
                return None
        elif depth == 0:
            return None
        elif depth == within:  # a member's name: texts that are values are passed over with their names
            if token == inner and depth == 1 and _OBJECT.match(body, at):
                within = 2
                continue
            named = _NAMED.match(body, at)
            if token in names:
                return None if named is None else named.span(1)
            if named is not None:
                at = named.end()
    return None


def quoted(name: bytes) -> bytes:
    """A name as a JSON text."""
    return b'"' + name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _is_json(head: RequestHead) -> bool:
    json = coded = False
    fields: Sequence[tuple[bytes, bytes]] = head.fields
    for name, value in fields:
        low = name.lower()
        if low == b"content-type":
            json = b"json" in value.lower()
        elif low == b"content-encoding":
            coded = value.strip().lower() != b"identity"
    return json and not coded


def _name_of(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()
