"""Load on a running gateway: held-out digits sent as inference requests, reported by the variant that answered.

    locust -f loadtests/locustfile.py --headless --users 20 --run-time 60s --host http://127.0.0.1:8080

Each user sends ten requests a second, one image each, in the JSON form of the Open Inference Protocol v2. Requests are
listed as `infer [stable]`, `infer [canary]` or `infer [rescued]` (stable answered what the canary had failed), as the
gateway's response headers say; `infer [unrouted]` is an answer that no variant gave. The labels are known, so the run
ends with the accuracy of each; with `--processes` each process says its own.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from locust import FastHttpUser, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import FastResponse
from locust.env import Environment

from gateway import bundled

PIXELS, LABELS = bundled.heldout()

answered: Counter[str] = Counter()
"""Classified images by who answered."""

correct: Counter[str] = Counter()
"""As `answered`, those with the right label."""


class DigitsUser(FastHttpUser):
    """A client that has the held-out digits read, one after the other from a random one on."""

    wait_time = constant_throughput(10)

    def on_start(self) -> None:
        """Begin anywhere, so that users do not march in step."""
        self.at = random.randrange(len(LABELS))

    @task
    def infer(self) -> None:
        """Send one image and count the answer for the variant that gave it."""
        self.at = (self.at + 1) % len(LABELS)
        pixels, label = PIXELS[self.at], LABELS[self.at]
        tensor = {"name": "pixels", "shape": [1, len(pixels)], "datatype": "FP32", "data": pixels}
        path = f"/v2/models/{self.environment.parsed_options.model}/infer"
        with self.client.post(path, json={"inputs": [tensor]}, catch_response=True) as response:
            who = who_answered(response.headers or {})
            response.request_meta["name"] = f"infer [{who}]"
            found = label_in(response)
            if found is None:
                response.failure(f"status {response.status_code} and no label")
            else:
                answered[who] += 1
                correct[who] += found == label


def who_answered(headers: Any) -> str:
    """`stable`, `canary`, `rescued` or `unrouted`, from the gateway's response headers."""
    if headers.get("x-gateway-rescued") == "true":
        return "rescued"
    return str(headers.get("x-gateway-variant") or "unrouted")


def label_in(response: FastResponse) -> int | None:
    """The label in the answer to one image, or None when there is none."""
    if response.status_code != 200:
        return None
    outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
    return int(outputs["label"][0]) if "label" in outputs else None


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    """Let the model's name be chosen."""
    parser.add_argument("--model", default="digits", help="the model's name in the path (default: digits)")


@events.quitting.add_listener
def print_accuracy(environment: Environment) -> None:
    """Say how often each variant was right."""
    for who in sorted(answered):
        print(f"accuracy [{who}] {correct[who] / answered[who]:.4f} of {answered[who]} images")
