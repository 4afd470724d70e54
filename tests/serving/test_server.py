"""The model server over real sockets: the protocol's answers, both encodings of tensors, and its errors."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gateway import bundled
from gateway.serving.tensors import DTYPES, encode_binary

IMAGE = bundled.heldout().pixels[0]
LABEL = bundled.heldout().labels[0]
PIXELS: dict[str, Any] = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": IMAGE}
INFER = "/v2/models/digits-logreg/infer"

SAMPLES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-32768, 32767],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-1.5, 65504.0],
    "FP32": [-1.5, 3.0e38],
    "FP64": [-1.5, 1.0e308],
    "BYTES": ["", "Größe"],
}


def test_health_metadata_and_readiness(digits: Any) -> None:
    client = digits.client
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    metadata = {
        "name": "digits-logreg",
        "versions": ["1"],
        "platform": "onnx_onnxruntime",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        ],
    }
    for path in ("/v2/models/digits-logreg", "/v2/models/digits-logreg/versions/1"):
        assert client.get(path).json() == metadata
        assert client.get(f"{path}/ready").json() == {"name": "digits-logreg", "ready": True}
        assert client.post(f"{path}/infer", json={"inputs": [PIXELS]}).status_code == 200


def test_inference_in_json(digits: Any) -> None:
    response = digits.infer({"id": "7", "parameters": {"k": "v"}, "inputs": [PIXELS]})
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    answer = response.json()
    assert (answer["model_name"], answer["model_version"]) == ("digits-logreg", "1")
    assert (answer["id"], answer["parameters"]) == ("7", {"k": "v"})
    label, probabilities = answer["outputs"]
    assert label == {"name": "label", "datatype": "INT64", "shape": [1], "data": [LABEL]}
    assert probabilities["shape"] == [1, 10] and sum(probabilities["data"]) == pytest.approx(1)


def test_nested_data_and_batches_mean_the_same_as_single_images(digits: Any) -> None:
    images = bundled.heldout().pixels[:5]
    batch = {"name": "pixels", "datatype": "FP32", "shape": [5, 64], "data": images}
    together = digits.infer({"inputs": [batch], "outputs": [{"name": "label"}]}).json()["outputs"]
    singly = [digits.infer({"inputs": [{**PIXELS, "data": image}]}).json()["outputs"][0]["data"][0] for image in images]
    assert [output["name"] for output in together] == ["label"] and together[0]["data"] == singly


def test_an_empty_batch_gets_an_empty_answer(digits: Any) -> None:
    response = digits.infer({"inputs": [{**PIXELS, "shape": [0, 64], "data": []}]})
    assert response.status_code == 200 and response.json()["outputs"][0]["data"] == []


def test_binary_tensors_both_ways(digits: Any) -> None:
    raw = np.array(IMAGE, "<f4").tobytes()
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [pixels], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = digits.client.post(INFER, content=head + raw, headers=headers)
    assert response.status_code == 200 and response.headers["content-type"] == "application/octet-stream"
    json_bytes = int(response.headers["Inference-Header-Content-Length"])
    label, probabilities = json.loads(response.content[:json_bytes])["outputs"]
    assert "data" not in label and label["parameters"] == {"binary_data_size": 8}
    assert probabilities["parameters"] == {"binary_data_size": 40}
    data = response.content[json_bytes:]
    assert np.frombuffer(data[:8], "<i8").tolist() == [LABEL]
    assert np.frombuffer(data[8:], "<f4").sum() == pytest.approx(1)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_every_datatype_passes_through_a_model(identity: Any, binary: bool) -> None:
    inputs, blobs = [], []
    for datatype, values in SAMPLES.items():
        tensor: dict[str, Any] = {"name": f"in_{datatype}", "datatype": datatype, "shape": [1, 2], "data": values}
        if binary:
            blobs.append(encode_binary(datatype, np.array(tensor.pop("data"), DTYPES[datatype])))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        inputs.append(tensor)
    outputs = [{"name": f"out_{datatype}"} for datatype in SAMPLES]
    content = {"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": binary}}
    head = json.dumps(content).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    response = identity.client.post("/v2/models/identity/infer", content=b"".join([head, *blobs]), headers=headers)
    assert response.status_code == 200, response.text
    if binary:
        assert response.content[int(response.headers["Inference-Header-Content-Length"]) :] == b"".join(blobs)
    else:
        answered = {output["datatype"]: output["data"] for output in response.json()["outputs"]}
        expected = {d: pytest.approx(v, rel=1e-6) if d.startswith("FP") else v for d, v in SAMPLES.items()}
        assert answered == expected


def assert_error(response: httpx.Response, status: int, complaint: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["error"] and complaint in answer["error"], answer


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"[]", "malformed"),
        (b'{"inputs":[]}', "missing input: 'pixels'"),
        (
            json.dumps({"inputs": [{**PIXELS, "name": "image"}]}).encode(),
            "unknown input 'image'; the model takes: 'pixels'",
        ),
        (json.dumps({"inputs": [{**PIXELS, "shape": [1, 63]}]}).encode(), "has shape [-1, 64]"),
        (json.dumps({"inputs": [{**PIXELS, "shape": [2, 64]}]}).encode(), "takes 128 elements, data has 64"),
        (json.dumps({"inputs": [{**PIXELS, "datatype": "FP64"}]}).encode(), "'pixels' is FP32, not 'FP64'"),
        (json.dumps({"inputs": [PIXELS], "outputs": [{"name": "digit"}]}).encode(), "unknown output 'digit'"),
    ],
)
def test_bad_input_gets_400_and_says_why(digits: Any, body: bytes, complaint: str) -> None:
    assert_error(digits.client.post(INFER, content=body), 400, complaint)


def test_other_errors_have_their_own_status_and_the_same_form(digits: Any) -> None:
    client = digits.client
    content = {"inputs": [PIXELS]}
    assert_error(client.post("/v2/models/cats/infer", json=content), 404, "unknown model 'cats'")
    assert_error(client.get("/v2/models/cats"), 404, "this server has 'digits-logreg'")
    assert_error(client.get("/v2/models/digits-logreg/versions/2/ready"), 404, "unknown version '2'")
    assert_error(client.post("/v2/models/digits-logreg/versions/2/infer", json=content), 404, "unknown version '2'")
    assert_error(client.get("/v3"), 404, "Not Found")
    assert_error(client.get("/v2/faults"), 404, "Not Found")
    assert_error(client.get(INFER), 405, "Method Not Allowed")
    assert_error(client.post(INFER, content=b"x", headers={"Content-Encoding": "gzip"}), 415, "Content-Encoding")
    header = {"Inference-Header-Content-Length": "many"}
    assert_error(client.post(INFER, content=b"{}", headers=header), 400, "Inference-Header-Content-Length")


@pytest.mark.parametrize("sizes", [[2, 3], [-5, 3], [2**62, 2**62]])
def test_inputs_that_fail_inside_the_graph_get_400(start: Any, slow_model: Path, sizes: list[int]) -> None:
    """They pass every check against the metadata; only the graph knows that they do not go together."""
    server = start(slow_model)
    content = {"inputs": [{"name": "shape", "datatype": "INT64", "shape": [2], "data": sizes}]}
    assert_error(server.infer(content, model="slow"), 400, "the model cannot compute with these inputs")


def assert_stays_open(url: httpx.URL, path: str, content: dict[str, Any]) -> None:
    """A failure must not cost the request that comes after it on the same connection."""
    connection = http.client.HTTPConnection(url.host, url.port or 80, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(content))
        answer = connection.getresponse()
        assert (answer.status, answer.will_close) == (500, False)
        answer.read()
        assert connection.sock is not None
        closed, _, _ = select.select([connection.sock], [], [], 0.5)
        assert not closed, "the server closed the connection after its answer"


def test_a_model_that_has_never_worked_answers_500_and_one_that_has_400(
    start: Any, tmp_path: Path, onnx_file: Any
) -> None:
    """A broken model must not pass for bad input: 4xx would be blamed on the clients."""
    path = tmp_path / "square.onnx"  # x times x: works for [3, 3] alone, which its metadata does not say
    path.write_bytes(onnx_file([("MatMul", ["x", "x"], ["y"])], {"x": ("FP32", (None, 3))}, {"y": ("FP32", (None, 3))}))
    server = start(path)

    def x_of(rows: int) -> dict[str, Any]:
        return {"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": [0] * rows * 3}

    def infer(rows: int) -> httpx.Response:
        response: httpx.Response = server.infer({"inputs": [x_of(rows)]}, model="square")
        return response

    assert_error(infer(1), 500, "the model server failed")
    assert_stays_open(server.client.base_url, "/v2/models/square/infer", {"inputs": [x_of(1)]})
    assert infer(3).status_code == 200
    assert_error(infer(1), 400, "the model cannot compute with these inputs")


def test_a_body_over_the_limit_gets_413(digits: Any) -> None:
    response = digits.client.post(INFER, content=bytes(64 * 1024 * 1024 + 1))
    assert_error(response, 413, "send smaller batches")
    assert digits.infer({"inputs": [PIXELS]}).status_code == 200


@pytest.mark.parametrize("name", bundled.NAMES)
def test_bundled_models_answer_as_their_cards_say(start: Any, name: str) -> None:
    pixels, labels = bundled.heldout()
    server = start(name)
    batch = {"name": "pixels", "datatype": "FP32", "shape": [len(pixels), 64], "data": pixels}
    response = server.infer({"inputs": [batch], "outputs": [{"name": "label"}]}, model=name)
    answers = response.json()["outputs"][0]["data"]
    accuracy = sum(map(int.__eq__, answers, labels)) / len(labels)
    assert f"| Accuracy | {accuracy:.3f} on the {len(labels)} held-out images" in bundled.card(name).read_text()
