"""FID, KID, precision and recall of real images, against the numbers of three PyTorch packages.

``golden/fid_packages.json`` holds what the packages computed with the same weights on the sets of `SETS`,
with their versions. Of every set the first half plays the real images, the second the generated ones.
"""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from medgen_jax.interop.inception_layout import variables_from_pack
from medgen_jax.interop.packs import read_pack
from medgen_jax.metrics.frechet import frechet_distance
from medgen_jax.metrics.kernel import kernel_distance
from medgen_jax.metrics.manifold import manifold_scores
from medgen_jax.nn import inception_fid as fid

BATCH = 8
Row = dict[str, str]
Files = list[pathlib.Path]


def first_names(table: pathlib.Path, folder: pathlib.Path, wanted: Callable[[Row], bool], count: int) -> Files:
    """The first ``count`` of the sorted file names in those rows of a table that are wanted."""
    with table.open(newline="") as file:
        names = sorted(row["file"] for row in csv.DictReader(file) if wanted(row))
    assert len(names) >= count
    return [folder / name for name in names[:count]]


def chest_xray(data: pathlib.Path, label: str) -> Files:
    """64 of 256 x 256 pixels, of the rows marked permissive, by folder of the label."""

    def wanted(row: Row) -> bool:
        return row["file"].startswith(f"{label}/") and row["licence_class"] == "permissive"

    return first_names(data / "cxr/index.csv", data / "cxr", wanted, 64)


def chest_xray_originals(data: pathlib.Path, label: str) -> Files:
    """All 8 of about 1000 to 1800 pixels a side, every one of another size."""
    return first_names(data / "cxr/originals.csv", data / "cxr", lambda row: row["label"] == label, 8)


def stained_tissue(data: pathlib.Path, domain: str) -> Files:
    """64 tiles of 256 x 256 pixels of one stain domain."""
    table = data / "histology/unpaired/monuseg.csv"
    return first_names(table, data / "histology", lambda row: row["stain_domain"] == domain, 64)


SETS = {
    "chest_xray": (chest_xray, "normal", "pneumonia"),
    "chest_xray_originals": (chest_xray_originals, "normal", "pneumonia"),
    "stained_tissue": (stained_tissue, "A_pink", "B_purple"),
}


@pytest.fixture(scope="module")
def numbers(root: pathlib.Path) -> dict[str, Any]:
    return json.loads((root / "tests/metrics/golden/fid_packages.json").read_text())["numbers"]


@pytest.fixture(scope="module")
def network(shared: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Scaled images (n, 299, 299, 3) -> features (n, 2048)."""
    path = shared / "weights" / "inception_fid_2015_fp32.npz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} of the shared folder, which is absent")
    variables, run = jax.device_put(variables_from_pack(read_pack(path))), jax.jit(fid.InceptionFid().apply)
    return lambda x: np.concatenate([run(variables, x[i : i + BATCH]) for i in range(0, len(x), BATCH)])


def network_inputs(files: Sequence[pathlib.Path], protocol: str) -> np.ndarray:
    """(n, 299, 299, 3), one by one as sizes may differ."""
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return np.concatenate([fid.network_input(image[None], protocol) for image in images])


def test_the_numbers_tell_the_protocols_apart(numbers: dict[str, Any]) -> None:
    """Every pair of packages differs by several times the tolerance of the comparison below."""
    for name in SETS:
        values = np.sort([package["fid"] for package in numbers[name].values()])
        assert len(values) == len(fid.PROTOCOLS)
        assert np.all(np.diff(values) > 1e-3 * values[1:]), name


@pytest.mark.slow
@pytest.mark.parametrize("protocol", tuple(fid.PROTOCOLS))
@pytest.mark.parametrize(
    "name", ["chest_xray", pytest.param("chest_xray_originals", marks=pytest.mark.ci_slow), "stained_tissue"]
)
def test_numbers_of_the_package(
    name: str, protocol: str, shared: pathlib.Path, network: Any, numbers: dict[str, Any]
) -> None:
    files, *halves = SETS[name]
    real, fake = (network(network_inputs(files(shared / "data", half), protocol)) for half in halves)
    wanted = numbers[name][protocol]
    assert frechet_distance(real, fake) == pytest.approx(wanted["fid"], rel=2e-4)
    if "kid" in wanted:
        assert kernel_distance(real, fake)["kid"] == pytest.approx(wanted["kid"], rel=2e-4)
    if "precision" in wanted:  # the package counts surfaces as inside; one image may change sides by rounding
        scores = manifold_scores(real, fake, k=3, closed=True)
        for score in ("precision", "recall"):
            assert scores[score] == pytest.approx(wanted[score], abs=1.01 / len(real))
    if "prdc" in wanted:
        scores = manifold_scores(real, fake, k=wanted["prdc"]["k"])
        for score in ("precision", "recall", "density", "coverage"):
            assert scores[score] == pytest.approx(wanted["prdc"][score], abs=1e-4), score
