"""From a file to a recording: its format is known by its first character.

There are two formats: counts per interval as CSV (csv_reader.py), and the gateway's own access log, JSON lines
(log_reader.py). To add one: a class that is a `Recording`, and a line in `open_recording`.
"""

from __future__ import annotations

from pathlib import Path

from gateway.replay.csv_reader import CsvRecording
from gateway.replay.lines import beginning, is_unknown_archive
from gateway.replay.log_reader import LogRecording
from gateway.replay.recording import Recording, RecordingError


def open_recording(path: Path, route: str | None = None) -> Recording:
    """The recording in the file at ``path``; ``route`` chooses one of an access log's. Raises RecordingError."""
    try:
        if path.exists() and not path.is_file():
            problem = "this is not a regular file, and a recording is read more than once"
            raise RecordingError(str(path), None, "", problem, "save the recording to a file first")
        start = beginning(path, 64)
    except FileNotFoundError:
        raise RecordingError(str(path), None, "", "there is no such file", "give the path of a recording") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordingError(str(path), None, "", f"cannot be read: {why}", "give a file this user may read") from None
    if other := is_unknown_archive(start):
        raise RecordingError(str(path), None, "", f"this is a {other} file", "unpack it first, or use gzip")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return LogRecording(path, route)
    return CsvRecording(path)
