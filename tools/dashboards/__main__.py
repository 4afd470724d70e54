"""Write the dashboards, or say which of them is not what would be written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tools.dashboards.health import health
from tools.dashboards.rollout import rollout
from tools.dashboards.routes import routes

FOLDER = Path(__file__).parents[2] / "config" / "grafana" / "dashboards"
BOARDS: dict[str, Callable[[], Dashboard]] = {
    "canary-gateway.json": routes,
    "canary-gateway-rollout.json": rollout,
    "canary-gateway-health.json": health,
}


def written() -> dict[str, str]:
    """The files, by name."""
    return {name: json.dumps(_tree(make()), indent=2, ensure_ascii=False) + "\n" for name, make in BOARDS.items()}


def _tree(made: Dashboard) -> Any:
    """The dashboard as plain values, its panels numbered from 1."""
    tree = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    for number, panel in enumerate(tree["panels"], start=1):
        panel["id"] = number
    return tree


def main() -> int:
    """Write, or compare (``--check``)."""
    check, differing = "--check" in sys.argv[1:], []
    for name, text in written().items():
        path = FOLDER / name
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            differing.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if differing:
        print(f"not as tools/dashboards writes them: {', '.join(differing)}; run: python -m tools.dashboards")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
