"""The protocols that answers are read in, by the name that the configuration gives them.

A further protocol is a function or an object that satisfies `outputs.OutputsDecoder`, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.core.predictions import json_answers, oip
from gateway.core.predictions.json_path import JsonPath
from gateway.core.predictions.outputs import OutputsDecoder


def _auto(_: Mapping[str, str]) -> OutputsDecoder:
    return json_answers.decode


def _oip(_: Mapping[str, str]) -> OutputsDecoder:
    return oip.decode


PROTOCOLS: Mapping[str, Callable[[Mapping[str, str]], OutputsDecoder]] = {
    "auto": _auto,
    "oip": _oip,
    "json-path": JsonPath,
}
"""How a decoder is made, given the paths of its outputs (which those whose outputs bear names do not need)."""
