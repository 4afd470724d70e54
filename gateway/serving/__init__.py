"""The bundled model server: one ONNX model behind the Open Inference Protocol v2.

It is the upstream of the demo and of the tests, and with `--fault` a test double of itself. From pure to worldly:
`tensors` (codec), `protocol` (messages), `faults` (what goes wrong, by seeded draws), `model` (onnxruntime),
`runner` (threads and the bounded queue), `server` (HTTP), `command` (the command line).
"""

from __future__ import annotations

import os

# ONNX Runtime's official builds report to their maker over the network unless this is set before they are loaded. A
# server on somebody's machine does not do that unasked; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
