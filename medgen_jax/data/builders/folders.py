"""What ``config.data.source`` takes, as sources of prepared sets: folders of images and CSV files."""

from __future__ import annotations

from pathlib import Path

from medgen_jax.core.config import DataConfig, Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data import layouts, sources
from medgen_jax.data.listing import Listing


def open_folder(
    source: Path, *, layout: Layout = Layout.AUTO, panels: int = 2, panel_a: int = 0, panel_b: int = 1
) -> dict[str, Listing]:
    """A folder in any of the layouts that training reads: classes, images, pairs, panels, two domains.

    Args:
      source: the folder.
      layout: as config.data.layout.
      panels: pictures side by side in one file, for layout=panels.
      panel_a: which of them is a, counted from the left.
      panel_b: which of them is b.

    Raises:
      UserError: as `medgen_jax.data.sources.list_tables`.
    """
    if layout in (Layout.CSV, Layout.PREPARED):
        raise UserError(f"--set layout={layout.value}: a folder is asked for; prepare a CSV file with --dataset csv")
    config = DataConfig(source=_plain(source), layout=layout, panels=panels, panel_a=panel_a, panel_b=panel_b)
    return _all_splits(config)


def open_paired(source: Path) -> dict[str, Listing]:
    """``{train,val,test}/{A,B}/name.png`` as splits with columns ``a`` and ``b``.

    Args:
      source: the folder.

    Raises:
      UserError: as `medgen_jax.data.layouts.list_split`.
    """
    return open_folder(source, layout=Layout.PAIRED)


def open_unpaired(source: Path) -> dict[str, Listing]:
    """``trainA trainB testA testB`` as splits of these names with one column ``image``.

    Args:
      source: the folder.

    Raises:
      UserError: as `medgen_jax.data.layouts.list_split`.
    """
    return open_folder(source, layout=Layout.UNPAIRED)


def open_csv(
    source: Path,
    *,
    csv_root: Path | None = None,
    unpaired: bool = False,
    shares: tuple[float, ...] = (0.8, 0.1, 0.1),
    split_seed: int = 0,
) -> dict[str, Listing]:
    """A CSV file as `medgen_jax.data.csv_manifest` describes it.

    Args:
      source: the CSV file.
      csv_root: folder that its paths start from; none: the one it lies in.
      unpaired: take the two paths of a line for images of two domains, not for a pair.
      shares: of train, val and test in patients, where there is no column split.
      split_seed: deals those patients anew.

    Raises:
      UserError: as `medgen_jax.data.csv_manifest.read_manifest`.
    """
    layout = Layout.UNPAIRED if unpaired else Layout.CSV
    if not source.is_file():
        raise UserError(f"--source {source}: is a folder; name the CSV file, or take --dataset folder")
    config = DataConfig(
        source=_plain(source), layout=layout, shares=shares, split_seed=split_seed, csv_root=csv_root and str(csv_root)
    )
    return _all_splits(config)


def _plain(source: Path) -> str:
    """A path that is never taken for the name of a packaged set."""
    return str(source.absolute())


def _all_splits(config: DataConfig) -> dict[str, Listing]:
    """Splits by name; the sides of unpaired ones are splits of their own, such as trainA."""
    found: dict[str, Listing] = {}
    for split in sources.splits(config):
        for table, listing in sources.list_tables(config, split).items():
            if table in layouts.SIDES:
                found[f"{split}{layouts.SIDES[table]}"] = _one_column(listing, table)
            else:
                found[split] = listing
    return found


def _one_column(listing: Listing, side: str) -> Listing:
    """One domain of an unpaired set, its column called image in both."""
    return Listing({"image": listing.columns[side]}, listing.labels, listing.classes, listing.ids, listing.groups)
