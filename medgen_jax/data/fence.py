"""Whether a file lies inside a folder, however it is linked."""

from __future__ import annotations

import os
from pathlib import Path


class Fence:
    """The files inside a folder, links followed. Each folder below is looked up once, files only if they are links.

    Args:
      root: the folder; may itself be a link.
    """

    def __init__(self, root: str | Path):
        self.root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def resolve(self, file: str | Path, link: bool = False) -> str | None:
        """Real path of a file, or None when that is outside.

        Args:
          file: need not exist.
          link: whether the file itself is a link; links of the folders above it are always followed.
        """
        folder, name = os.path.split(file)
        if link:
            real = os.path.realpath(file)
        elif folder in self._folders:
            real = os.path.join(self._folders[folder], name)
        else:
            self._folders[folder] = os.path.realpath(folder)
            real = os.path.join(self._folders[folder], name)
        return real if real.startswith(os.path.join(self.root, "")) else None
