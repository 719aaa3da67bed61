"""Reference statistics in a file: what FID needs of the real images, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import cache
from medgen_jax.evaluation.distances import Reference
from medgen_jax.metrics import frechet

#: Conditions that must agree between the file and the evaluation that uses it.
_SAME = ("network", "weights", "resize", "scaling", "quantisation")


@dataclass(frozen=True)
class StoredReference:
    """Statistics of real images as a file holds them.

    Attributes:
      path: the file.
      statistics: of the features.
      conditions: under which they were made; ``n_real`` and ``reference`` among them.
    """

    path: Path
    statistics: frechet.Statistics
    conditions: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> StoredReference:
        """Read the file.

        Raises:
          UserError: when it is no file of statistics.
        """
        path = Path(path).expanduser()
        return cls(path, *cache.load_statistics(path))

    def __len__(self) -> int:
        return int(self.statistics.count)

    @property
    def digest(self) -> str:
        """sha256 of the images' contents."""
        return str(self.conditions["reference"])

    @property
    def reference(self) -> Reference:
        """The real side of a comparison, without features."""
        return Reference(self.statistics, None)

    def require(self, wanted: dict[str, Any]) -> None:
        """Refuse statistics that were made under other conditions.

        Raises:
          UserError: naming the first that differs.
        """
        for name in _SAME:
            have = self.conditions.get(name)
            if have != wanted[name]:
                raise UserError(
                    f"--real {self.path}: was made with {name} {have}, this evaluation uses {wanted[name]}; "
                    "choose the same, or write the file anew with --save_statistics"
                )


def new_file(path: str | Path, overwrite: bool) -> Path:
    """The file that --save_statistics names.

    Raises:
      UserError: for another suffix than .npz, or a file that is there and may not be overwritten.
    """
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise UserError(f"--save_statistics {path}: the name must end in .npz")
    if path.exists() and not overwrite:
        raise UserError(f"--save_statistics {path}: is there already; choose another name or add --overwrite")
    return path
