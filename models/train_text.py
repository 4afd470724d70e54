"""Train the bundled text models on `text.txt`: n-grams of words, the same bytes every time.

A model is a JSON file of counts: for each context of `order` - 1 words which words followed it, and how often. It is
real in what matters here: it writes text word by word, by chance, and comes to an end by itself.

    python models/train_text.py            write the models beside this script
    python models/train_text.py --check    train again and compare; exit 1 when a file is another
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent
ORDERS = {"text-bigram": 2, "text-trigram": 3}
START, END = "<s>", "</s>"
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*|[0-9]+(?:\.[0-9]+)?|[.,;:?!%]")


def sentences() -> list[list[str]]:
    """The text's sentences as words; each is a line."""
    return [_WORD.findall(line) for line in (HERE / "text.txt").read_text(encoding="utf-8").splitlines()]


def trained(name: str, order: int, read: list[list[str]]) -> bytes:
    """The model's file."""
    words = [START, END, *sorted({word for sentence in read for word in sentence})]
    numbers = {word: number for number, word in enumerate(words)}
    counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for sentence in read:
        coded = [0] * (order - 1) + [numbers[word] for word in sentence] + [1]
        for place in range(order - 1, len(coded)):
            counts[tuple(coded[place - order + 1 : place])][coded[place]] += 1
    rows = {
        " ".join(map(str, context)): [part for pair in sorted(following.items()) for part in pair]
        for context, following in sorted(counts.items())
    }
    model = {"format": "word-ngram", "name": name, "version": "1", "order": order, "words": words, "counts": rows}
    return json.dumps(model, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def main() -> int:
    """Write, or compare."""
    read, status = sentences(), 0
    for name, order in ORDERS.items():
        path, model = HERE / f"{name}.json", trained(name, order, read)
        if "--check" not in sys.argv:
            path.write_bytes(model)
            print(f"{path.name}: {len(model):,} bytes of {len(read)} sentences")
        elif path.read_bytes() != model:
            print(f"{path.name} is another than this script makes", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
