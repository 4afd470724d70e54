"""A suite of Great Expectations judges data.

    python -m gateway.integrations.great_expectations --suite suite.json                  windows on standard input
    python -m gateway.integrations.great_expectations --suite suite.json --data batch.csv a file (also .jsonl, .parquet)

A window is a line of JSON: {"rows": [{"request.pixels.0": 0.0, "response.label": 4, ...}, ...]}. The answer to it
is a line: {"success", "failed_rows", "failures", "result"}. A file ends the program with status 0 when it conforms,
with 1 when it does not, and its result is printed.

Only what fails with the severity `critical`, the default, counts; `warning` and `info` are in the result.

Source: Great Expectations 1.24 (ephemeral context, pandas data source, ValidationDefinition).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
_KEYS = ("type", "kwargs", "meta", "severity")
_INDEXES_MAX = 10
_VALUES_MAX = 20


class Suite:
    """A suite from a JSON file, ready to judge data frames."""

    def __init__(self, path: Path) -> None:
        # Seconds: not before the arguments are known to be good.
        import great_expectations as gx  # noqa: PLC0415  # see above

        described = json.loads(path.read_text(encoding="utf-8"))
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        given = [{key: one[key] for key in _KEYS if key in one} for one in described["expectations"]]
        suite = context.suites.add(gx.ExpectationSuite(name=described.get("name", path.stem), expectations=given))
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("rows")
        self._definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=path.stem, data=batch, suite=suite)
        )

    def judge(self, frame: Any) -> dict[str, Any]:
        """The verdict on a data frame."""
        found = self._definition.run(
            batch_parameters={"dataframe": frame},
            result_format={"result_format": "COMPLETE", "exclude_unexpected_values": True},
        ).to_json_dict()
        failed_rows: set[int] = set()
        failures = []
        for one in found["results"]:
            result = one.get("result") or {}
            critical = one["expectation_config"].get("severity", "critical") == "critical"
            if not one["success"] and critical:
                failures.append(_sentence(one))
                if not result:  # it could not be asked, such as of a column that is missing in all rows
                    failed_rows.update(range(len(frame)))
                failed_rows.update(
                    index for index in result.get("unexpected_index_list") or () if isinstance(index, int)
                )
            _shorten(one, result)
        return {
            "success": not failures,
            "failed_rows": len(failed_rows),
            "failures": failures,
            "result": {key: found[key] for key in ("success", "statistics", "results") if key in found},
        }


def _sentence(one: dict[str, Any]) -> str:
    config, result = one["expectation_config"], one.get("result") or {}
    kwargs = {key: value for key, value in config["kwargs"].items() if key != "batch_id"}
    what = f"{config['type']}({', '.join(f'{key}={value}' for key, value in kwargs.items())})"
    if "unexpected_count" in result:
        return f"{what}: {result['unexpected_count']} of {result.get('element_count')} rows"
    if "observed_value" in result:
        return f"{what}: observed {result['observed_value']}"
    raised = one.get("exception_info") or {}
    messages = [
        raised.get("exception_message"),
        *(v.get("exception_message") for v in raised.values() if isinstance(v, dict)),
    ]
    return f"{what}: {next((message for message in messages if message), 'failed')}"


def _shorten(one: dict[str, Any], result: dict[str, Any]) -> None:
    """Results are kept: a few examples say as much as all of them."""
    one.pop("exception_info", None)
    for key in ("unexpected_index_list", "unexpected_list", "unexpected_counts", "partial_unexpected_list"):
        if isinstance(result.get(key), list):
            result[key] = result[key][:_INDEXES_MAX]
    observed = result.get("observed_value")
    if isinstance(observed, list):
        result["observed_value"] = observed[:_VALUES_MAX]
    result.pop("unexpected_index_query", None)


def _frame(path: Path) -> Any:
    import pandas as pd  # noqa: PLC0415  # comes with Great Expectations

    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return pd.read_json(path, lines=True)
    return pd.read_csv(path)


def _windows(suite: Suite) -> None:
    """Judge windows until standard input ends."""
    import pandas as pd  # noqa: PLC0415  # as above

    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        verdict = suite.judge(pd.DataFrame(json.loads(line)["rows"]))
        answers.write(json.dumps(verdict, default=str) + "\n")
        answers.flush()


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m gateway.integrations.great_expectations")
    parser.add_argument("--suite", type=Path, required=True, help="the suite, a JSON file")
    parser.add_argument("--data", type=Path, help="a file to judge; without it windows come on standard input")
    given = parser.parse_args()
    suite = Suite(given.suite)
    if given.data is None:
        _windows(suite)
        return 0
    verdict = suite.judge(_frame(given.data))
    sys.stdout.write(json.dumps(verdict["result"], indent=2, default=str) + "\n")
    for failure in verdict["failures"]:
        sys.stderr.write(f"{given.data}: {failure}\n")
    return 0 if verdict["success"] else 1


if __name__ == "__main__":
    sys.exit(main())
