"""How long each file of the tests takes: written down from a run's JUnit report, for the order of the next run.

    pytest --junitxml=build/tests.xml ...; python -m tests.support.durations build/tests.xml

prints the seconds of each folder and writes tests/durations.json, which has the files that take a second or more. Where
several processes share the cores, each second is longer than it would be alone; the order is the same.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]


def by_file(report: Path) -> dict[str, float]:
    """The seconds of each test file, set-up and teardown included."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ET.parse(report).iter("testcase"):
        file = Path(*case.get("classname", "").split(".")).with_suffix(".py")
        seconds[file.as_posix()] += float(case.get("time", "0"))
    return seconds


def main(report: str) -> None:
    """Write the record, and print each folder's total."""
    seconds = by_file(Path(report))
    record = {file: round(lasted_s) for file, lasted_s in sorted(seconds.items()) if lasted_s >= 1}
    (ROOT / "tests" / "durations.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    folders: dict[str, float] = defaultdict(float)
    for file, lasted_s in seconds.items():
        folders["/".join(Path(file).parts[:2])] += lasted_s
    for folder, lasted_s in sorted(folders.items(), key=lambda item: -item[1]):
        print(f"{lasted_s:7.0f} s  {folder}")
    print(f"{sum(seconds.values()):7.0f} s  in all")


if __name__ == "__main__":
    main(*sys.argv[1:])
