"""The bundled model server: one ONNX model behind the Open Inference Protocol v2.

It is the upstream of the demo and of the tests, and with `--fault` a test double of itself. From pure to worldly:
`tensors` (codec), `protocol` (messages), `faults` (what goes wrong, by seeded draws), `model` (onnxruntime),
`runner` (threads and the bounded queue), `server` (HTTP), `command` (the command line).
"""
