"""A ConfigMap as a directory, replaced as the kubelet replaces it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path


class KubernetesVolume:
    """Files behind the symbolic link ``..data``, which is moved in one step; the old files are removed after it."""

    def __init__(self, directory: Path, files: Mapping[str, str]) -> None:
        self.directory = directory
        self._numbers = itertools.count()
        directory.mkdir(parents=True)
        self.put(files)

    def put(self, files: Mapping[str, str]) -> None:
        """Replace all files at once."""
        data = self.directory / "..data"
        old = data.readlink() if data.is_symlink() else None
        fresh = self.directory / f"..2026_11_30_06_00_00.{next(self._numbers)}"
        fresh.mkdir()
        for name, text in files.items():
            (fresh / name).write_text(text)
        moving = self.directory / "..data_tmp"
        moving.symlink_to(fresh.name)
        moving.rename(data)
        for name in files:
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")
        if old is not None:
            shutil.rmtree(self.directory / old)
