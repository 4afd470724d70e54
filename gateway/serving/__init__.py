"""The bundled model servers: one ONNX model behind the Open Inference Protocol v2, or one text model behind OpenAI's.

It is the upstream of the demo and of the tests, and with `--fault` a test double of itself. From pure to worldly:
`tensors` (codec), `protocol` (messages), `faults` (what goes wrong, by seeded draws), `model` (onnxruntime),
`runner` (threads and the bounded queue), `server` (HTTP), `command` (the command line); of the text model `text_model`,
`chat` and `text_server`. `replies` and `hosting` are common to both.
"""

from __future__ import annotations

import os

# ONNX Runtime's official builds report to their maker over the network unless this is set before they are loaded. A
# server on somebody's machine does not do that unasked; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
