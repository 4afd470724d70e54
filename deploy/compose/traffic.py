"""Handwritten digits at a steady rate: python traffic.py URL [REQUESTS]. Without a number, for ever."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter

import httpx

from gateway import bundled

PAUSE_S = 0.02


def main(url: str, requests: int | None) -> None:
    """Send, and print every thousand requests, and at the end, what came back."""
    pixels = bundled.heldout().pixels
    answers: Counter[str] = Counter()
    with httpx.Client(base_url=url, timeout=30) as client:
        for number in itertools.count(1) if requests is None else range(1, requests + 1):
            data = list(map(float, pixels[number % len(pixels)]))
            body = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": data}]}
            try:
                reply = client.post("/v2/models/digits/infer", json=body)
                answers[f"{reply.status_code} {reply.headers.get('x-gateway-variant', '')}".strip()] += 1
            except httpx.TransportError as error:
                answers[type(error).__name__] += 1
            if number % 1000 == 0 or number == requests:
                print(dict(answers), flush=True)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
