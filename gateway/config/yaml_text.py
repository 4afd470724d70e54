"""Plain values to YAML text that reads the same by YAML 1.1 and 1.2: text that either would misread is quoted."""

from __future__ import annotations

from typing import Any

import yaml

from gateway.config.errors import BadValue
from gateway.config.yaml_nodes import plain_scalar

_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]  # the class depends on what PyYAML was built with
    """PyYAML quotes by YAML 1.1 already; this adds 1.2 (`0o17`, `1e3`), and spells values out in place of aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Any, value: str) -> Any:
    try:
        quoted = plain_scalar(value) != value
    except BadValue:
        quoted = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="'" if quoted else None)


_Dumper.add_representer(str, _represent_text)


def to_yaml(tree: Any) -> str:
    """The text of a tree of dicts, lists, text, numbers, booleans and None; keys keep their order."""
    text: str = yaml.dump(tree, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    return text
