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
_ROOMS = {
    "core": ("stats/histogram", "traffic/router", "traffic/split"),
    "proxy": ("body_store", "context", "sweeper"),
    "proxy/counting": ("counters", "epoch_counters", "recent_answers"),
    "proxy/exchange": (
        "admission",
        "answer_names",
        "assignment",
        "attempt",
        "deadlines",
        "delivery",
        "exchange",
        "exchange_attempts",
        "expect_continue",
        "log_line",
        "mirror",
        "outcome",
        "rare_lines",
        "request_body",
        "retry",
        "stream_hold",
        "stream_opening",
        "stream_times",
        "trailers",
        "types",
        "upgrade",
    ),
    "proxy/heads": (
        "fast_heads",
        "field_policy",
        "first_line",
        "gateway_errors",
        "headers",
        "message_head",
        "passed_heads",
        "request",
        "request_head",
        "response_head",
        "tracing",
    ),
    "proxy/http1": (
        "client_connection",
        "client_socket",
        "request_reader",
        "request_writer",
        "response_writer",
        "server_connection",
    ),
    "proxy/listen": ("acceptor", "client_limits", "connecting"),
    "proxy/routes": ("rescue_budget", "route_mirror", "route_runtime"),
    "proxy/upstream": ("backends", "outlier_ejection", "pool", "probed_health", "request_changes", "types"),
}
COMPILED = tuple(f"gateway/{room}/{name}.py" for room, names in _ROOMS.items() for name in names)
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
