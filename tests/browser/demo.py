"""`gateway demo` as a process, and where its console is."""

from __future__ import annotations

import json
import subprocess
import sys
import threading


class RunningDemo:
    """`gateway demo`, and where its console is."""

    def __init__(self, scenario: str, *kind: str) -> None:
        command = [sys.executable, "-m", "gateway", "demo", *kind, "--scenario", scenario, "--json"]
        options = ["--keep-running-s", "300", "--seed", "7"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        self.url = ""
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if "console_url" in event:
                self.url = event["console_url"].rstrip("/")
                self._known.set()

    def console(self) -> str:
        assert self._known.wait(90), "the demo did not start"
        return self.url

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
