"""The build of the compiled data plane; everything else about the package is in pyproject.toml.

Rules:

1. A wheel (and with it `pip install .`) carries the modules of the request path compiled by mypyc, beside their
   source. They are ordinary typed Python, and run uncompiled as well: the behaviour is the same, the CPU is not.
2. Where they cannot be compiled (no C compiler, no Python headers) the wheel is built without, as a whole: never with
   some of them. `gateway --version`, the line at the start and the metric ``gateway_build_info`` say which it is.
3. An editable install, or CANARY_GATEWAY_PURE=1, compiles nothing: an edit must never be masked by an older build.
   CANARY_GATEWAY_COMPILED=1 makes a build fail where rule 2 would go on without: for those who ship what they built.
   CANARY_GATEWAY_OPT_LEVEL=0 compiles without optimising: for tests, which build more often than they run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# What a request passes through. Compiled classes know each other, so none of them may be subclassed elsewhere.
COMPILED = (
    *(f"gateway/core/{name}.py" for name in ("stats/histogram", "traffic/router", "traffic/split")),
    *(
        f"gateway/proxy/{name}.py"
        for name in (
            *(
                "upstream/backends",
                "body_store",
                "listen/acceptor",
                "listen/client_connection",
                "listen/client_limits",
                "listen/connecting",
                "http1/downstream",
                "exchange/exchange",
                "exchange/extras",
                "heads/gateway_errors",
                "heads/field_policy",
                "heads/first_line",
                "heads/headers",
                "heads/message_head",
                "heads/passed_heads",
                "http1/server_connection",
                "exchange/log_line",
                "upstream/outlier_ejection",
                "heads/fast_heads",
                "routes/rescue_budget",
                "routes/route_runtime",
                "upstream/pool",
                "upstream/probed_health",
                "counting/recent_answers",
                "exchange/request_body",
                "heads/request_head",
                "heads/response_head",
                "exchange/retry",
                "exchange/settlement",
            ),
            *(
                "context",
                "sweeper",
                "exchange/stream_times",
                "counting/counters",
                "counting/epoch_counters",
                "heads/tracing",
                "http1/client_connection",
            ),
        )
    ),
)
_BUILDS = {"bdist_wheel", "build", "build_ext", "install"}
_MYPY = """[mypy]
python_version = 3.11
explicit_package_bases = True
ignore_missing_imports = True
follow_imports = silent
"""


class WholeOrNot(build_ext):
    """Builds all extensions, or none (rule 2)."""

    def run(self) -> None:
        """Build; where that fails, leave no part behind and say so."""
        try:
            super().run()
        except Exception as error:
            if _wanted("CANARY_GATEWAY_COMPILED"):
                raise
            self._withdraw()
            _say(f"the data plane is NOT compiled ({error}): it works, and takes about twice the CPU")

    def _withdraw(self) -> None:
        for extension in self.extensions:
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        self.extensions.clear()


def extensions() -> list[Extension]:
    """The modules to compile, as extensions; none for a build that is to be pure."""
    asked = set(sys.argv[1:])
    if "editable_wheel" in asked or not asked & _BUILDS or _wanted("CANARY_GATEWAY_PURE"):
        return []
    try:
        from mypyc.build import mypycify  # noqa: PLC0415  # only a build that compiles needs it

        with tempfile.NamedTemporaryFile("w", suffix=".ini") as settings:
            settings.write(_MYPY)
            settings.flush()
            return list(
                mypycify(
                    ["--config-file", settings.name, *COMPILED],
                    opt_level=os.environ.get("CANARY_GATEWAY_OPT_LEVEL", "3"),
                    debug_level="0",
                    group_name="canary_gateway",
                )
            )
    except (ImportError, OSError, SystemExit) as error:  # mypyc ends the program where it finds a mistake
        if _wanted("CANARY_GATEWAY_COMPILED"):
            raise
        _say(f"the data plane is NOT compiled (mypyc: {error}): it works, and takes about twice the CPU")
        return []


def _wanted(variable: str) -> bool:
    return os.environ.get(variable, "") not in {"", "0"}


def _say(text: str) -> None:
    line = "*" * 72
    sys.stderr.write(f"\n{line}\n{text}\n{line}\n\n")


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": WholeOrNot})
