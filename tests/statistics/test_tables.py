"""docs/statistics.md shows what was measured: its tables are those of the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.statistics import tables

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_results() -> None:
    page = (ROOT / tables.PAGE).read_text(encoding="utf-8")
    again = tables.written(page, ROOT / tables.RESULTS)
    assert page == again, "the page is older than the results: run python -m loadtests.statistics.tables"


@pytest.mark.parametrize("name", list(tables.TABLES))
def test_every_table_is_on_the_page(name: str) -> None:
    page = (ROOT / tables.PAGE).read_text(encoding="utf-8")
    assert page.count(f"<!-- table: {name} -->\n| ") == 1


def test_a_table_is_written_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "sticky.jsonl").write_text(
        '{"table": "sticky", "weight": 0.05, "canary": 0.005, "alpha": 0.05, "runs": 2000, "by_sessions": 19,'
        ' "upper": 0.0139, "by_requests": 900}\n'
    )
    page = "before\n<!-- table: sticky -->\nold\n<!-- end -->\nafter\n"
    shown = tables.written(page, tmp_path)
    assert "| 0.5 -> 0.5 % | 5 % | 0.05 | 19 of 2000 | 1.39 % | 45.0 % |\n<!-- end -->\nafter" in shown
    assert shown.startswith("before\n<!-- table: sticky -->\n| failing") and "old" not in shown
    assert tables.written(shown, tmp_path) == shown
