"""The values of header fields that a backend gets: as they stand in the configuration, in the environment or in a file.

Control reads them to refuse a configuration whose values cannot be had, a worker to send them. Messages never show a
value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from gateway.core.traffic.table import SetHeader

VALUE_BYTES_MAX = 16 * 1024
_VALID = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")


class HeaderValueError(ValueError):
    """A value cannot be had; ``hint`` says what to do about it."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


def header_value(header: SetHeader, environ: Mapping[str, str]) -> bytes:
    """What a field says behind its prefix, without blanks and line ends around it. Raises HeaderValueError."""
    if header.value_env is not None:
        text = environ.get(header.value_env)
        if text is None:
            problem = f"the environment variable {header.value_env} is not set"
            raise HeaderValueError(problem, "set it where the gateway starts")
        return _checked(os.fsencode(text), header.value_env)
    if header.value_file is not None:
        try:
            with Path(header.value_file).open("rb") as file:
                value = file.read(VALUE_BYTES_MAX + 1)
        except OSError as error:
            problem = f"cannot read {header.value_file}: {error.strerror}"
            raise HeaderValueError(problem, "put the value into a file that the gateway may read") from None
        return _checked(value, header.value_file)
    return _checked((header.value or "").encode("latin-1"), "value")


def _checked(value: bytes, where: str) -> bytes:
    value = value.strip()
    if not value:
        raise HeaderValueError(f"{where} holds nothing", "put the value into it")
    if len(value) > VALUE_BYTES_MAX:
        raise HeaderValueError(f"{where} holds more than {VALUE_BYTES_MAX} bytes", "use a shorter value")
    if not _VALID.match(value):
        raise HeaderValueError(f"{where} holds control characters", "put the value into a single line")
    return value
