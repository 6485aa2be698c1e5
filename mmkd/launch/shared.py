"""A folder that all machines of a cluster share, and the check that they do."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

import mmkd
from mmkd.errors import ConfigError
from mmkd.lock import HOLDER


class Shared(NamedTuple):
    """A folder that the process holds which gives work, as others must see it before they write into it."""

    folder: str
    holder: str  # what its lock says of who holds it
    here: str  # where commands of this process find what they name
    path: tuple[str, ...]  # where its modules are found
    version: str  # of mmkd

    @classmethod
    def held(cls, folder: Path) -> Shared:
        """A folder that this process holds (``mmkd.lock``)."""
        return cls(
            str(folder.absolute()),
            (folder / HOLDER).read_text(),
            os.getcwd(),
            tuple(sys.path),
            mmkd.__version__,
        )

    def enter(self) -> None:
        """Work where the other process does.

        Raises:
            ConfigError: this machine has other files at that place, or another mmkd.
        """
        machine = platform.node()
        for place, seen in ((self.folder, self._sees_folder()), (self.here, Path(self.here).is_dir())):
            if not seen:
                raise ConfigError(
                    f"{machine} does not see {place} as the machine does where the command was given: work on"
                    " a file system that all machines of the cluster share"
                )
        if mmkd.__version__ != self.version:
            raise ConfigError(
                f"{machine} has mmkd {mmkd.__version__}, and the machine where the command was given"
                f" {self.version}: install one version on all machines of the cluster"
            )
        os.chdir(self.here)
        sys.path += [place for place in self.path if place not in sys.path]

    def _sees_folder(self) -> bool:
        try:
            return (Path(self.folder) / HOLDER).read_text() == self.holder
        except OSError:
            return False
