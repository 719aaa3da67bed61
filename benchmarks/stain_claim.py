"""Does normalising stains help a classifier in another laboratory, and does it matter which template is taken?

    python -m benchmarks.stain_claim --tiles DIR/unpaired/monuseg.csv --output stain_claim.jsonl

Organ (breast, kidney, liver) of MoNuSeg tiles: trained on slides of one stain (A_pink), tested on slides of another
(B_purple) and of other patients. A ResNet-18 without pretraining behind: nothing; Macenko; one colour space at fixed
template values (``template``); one learned space (``lab``, ``hsv``); LStainNorm (``fused``). Every method runs once per
template, with the template's number as its seed, so that ``none`` shows what the seed alone does.

One JSON line per run, appended; runs that are there are not repeated, those of another length not counted. The table
that it ends with gives mean and standard deviation over templates, and an interval of the mean by resampling patients.

The CSV file has the columns file (relative to the folder above its own), organ, stain_domain, patient_id.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from medgen_jax import training
from medgen_jax.core.errors import UserError
from medgen_jax.engine.console import Console
from medgen_jax.sampling import load_sampler
from medgen_jax.stain import macenko
from medgen_jax.systems.stain_classifier import Config, Normaliser, Start

ORGANS = ("breast", "kidney", "liver")
TRAIN, TEST = "A_pink", "B_purple"
METHODS = ("none", "macenko", "template", "lab", "hsv", "fused")
#: Method -> spaces of the layer.
SPACES = {"template": ("lab",), "lab": ("lab",), "hsv": ("hsv",), "fused": ("lab", "hsv", "rgb")}
RESAMPLES = 2000
MACENKO_BATCH = 16


class Tile(NamedTuple):
    """A line of the table of tiles."""

    file: Path
    organ: str
    domain: str
    patient: str


def read_tiles(table: Path) -> list[Tile]:
    """Tiles of the three organs, in the order of the table.

    Raises:
      UserError: for a missing column, a patient in both domains, or an organ missing from one.
    """
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    missing = {"file", "organ", "stain_domain", "patient_id"} - set(reader.fieldnames or ())
    if missing:
        raise UserError(f"--tiles {table}: has no column {sorted(missing)[0]!r}")
    root = table.resolve().parent.parent
    tiles = [
        Tile(root / r["file"], r["organ"].lower(), r["stain_domain"], r["patient_id"])
        for r in rows
        if r["organ"].lower() in ORGANS and r["stain_domain"] in (TRAIN, TEST)
    ]
    for organ in ORGANS:
        if {t.domain for t in tiles if t.organ == organ} != {TRAIN, TEST}:
            raise UserError(f"--tiles {table}: {organ} is not in both {TRAIN} and {TEST}")
    if both := {t.patient for t in tiles if t.domain == TRAIN} & {t.patient for t in tiles if t.domain == TEST}:
        raise UserError(f"--tiles {table}: patient {sorted(both)[0]} is in both domains")
    return tiles


def of_domain(tiles: list[Tile], domain: str) -> list[Tile]:
    """The tiles of one laboratory."""
    return [t for t in tiles if t.domain == domain]


def template_numbers(tiles: list[Tile], count: int) -> list[int]:
    """Training tiles to take as templates, spread evenly over the table."""
    size = len(of_domain(tiles, TRAIN))
    return [i * size // count for i in range(count)]


def pixels(tiles: list[Tile]) -> np.ndarray:
    """(n, h, w, 3) uint8."""
    return np.stack([np.asarray(Image.open(t.file).convert("RGB")) for t in tiles])


def normalised_by_macenko(images: np.ndarray, template: np.ndarray) -> np.ndarray:
    """uint8 tiles recoloured as the template (h, w, 3) uint8; tiles without tissue stay as they are."""
    target = _macenko_look(template[None])
    parts = []
    for start in range(0, len(images), MACENKO_BATCH):
        part = images[start : start + MACENKO_BATCH]
        # The last part is filled up, so that one compiled program serves all.
        full = np.concatenate([part, np.repeat(part[-1:], MACENKO_BATCH - len(part), axis=0)])
        parts.append(np.asarray(_macenko_recoloured(target, full))[: len(part)])
    return np.concatenate(parts)


@jax.jit
def _macenko_look(images: jax.Array) -> macenko.Stains:
    return macenko.fit(images.astype(jnp.float32) / 255)


@jax.jit
def _macenko_recoloured(target: macenko.Stains, images: jax.Array) -> jax.Array:
    return jnp.rint(255 * macenko.transform(target, images.astype(jnp.float32) / 255).images).astype(jnp.uint8)


def write_training_set(folder: Path, tiles: list[Tile], images: np.ndarray) -> Path:
    """Files and a CSV table for the trainer, in the order of ``tiles``; returns the table's path."""
    lines = ["path,label,patient_id,split"]
    for i, (tile, image) in enumerate(zip(tiles, images, strict=True)):
        Image.fromarray(image).save(folder / f"{i:04d}.png")
        lines.append(f"{i:04d}.png,{tile.organ},{tile.patient},train")
    table = folder / "tiles.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def configured(method: str, source: Path, template: int, seed: int, steps: int, batch: int) -> Config:
    """The run's configuration: ResNet-18 at 112 px."""
    config = Config()
    config.data.source = str(source)
    config.data.crop_size = 112
    config.data.rotate = True
    config.train.seed = seed
    config.train.batch_size = batch
    config.train.steps = steps
    config.train.log_every = 20
    config.train.sample_every = 0
    config.stop.patience = None
    if method not in SPACES:
        config.norm.kind = Normaliser.NONE
        return config
    config.norm.spaces = SPACES[method]
    config.norm.start, config.norm.template = Start.TEMPLATE, template
    config.norm.trained = method != "template"
    return config


def centres(images: np.ndarray, size: int = 112) -> np.ndarray:
    """What a tile is judged by: its four quadrants of ``size`` pixels around the centre, (4, n, size, size, 3)."""
    middle = images.shape[1] // 2
    corners = [(top, left) for top in (middle - size, middle) for left in (middle - size, middle)]
    return np.stack([images[:, t : t + size, left : left + size] for t, left in corners])


def run(method: str, tiles: list[Tile], template: int, seed: int, steps: int, batch: int) -> dict[str, Any]:
    """Train and test once; the row of the results."""
    training_tiles, test_tiles = of_domain(tiles, TRAIN), of_domain(tiles, TEST)
    train, test = pixels(training_tiles), pixels(test_tiles)
    if method == "macenko":
        chosen = train[template]
        train, test = normalised_by_macenko(train, chosen), normalised_by_macenko(test, chosen)
    with tempfile.TemporaryDirectory() as folder:
        table = write_training_set(Path(folder), training_tiles, train)
        config = configured(method, table, template, seed, steps, batch)
        training.train(config, Path(folder) / "run", console=Console(active=False))
        predict = load_sampler(Path(folder) / "run", "predict")
        classes = predict.config.data.classes
        views = [np.concatenate([predict({"image": v}) for v in np.array_split(view, 4)]) for view in centres(test)]
    answers = np.mean(views, axis=0).argmax(1)
    right = [classes[a] == t.organ for a, t in zip(answers, test_tiles, strict=True)]
    recalls = [np.mean([r for r, t in zip(right, test_tiles, strict=True) if t.organ == organ]) for organ in ORGANS]
    return {
        "method": method, "template": template, "seed": seed, "steps": steps, "batch": batch,
        "accuracy": float(np.mean(right)), "balanced_accuracy": float(np.mean(recalls)),
        "right": [int(r) for r in right], "patients": [t.patient for t in test_tiles],
        "organs": [t.organ for t in test_tiles],
    }  # fmt: skip


def interval(rows: list[dict[str, Any]], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean balanced accuracy over the rows, patients resampled within each organ."""
    rng = np.random.default_rng(seed)
    right = np.mean([r["right"] for r in rows], axis=0)
    patients, organs = np.array(rows[0]["patients"]), np.array(rows[0]["organs"])
    own = {p: right[patients == p] for p in np.unique(patients)}
    of_organ = {o: np.unique(patients[organs == o]) for o in ORGANS}
    draws = [
        np.mean([np.concatenate([own[p] for p in rng.choice(ps, len(ps))]).mean() for ps in of_organ.values()])
        for _ in range(RESAMPLES)
    ]
    return tuple(float(x) for x in np.quantile(draws, [0.025, 0.975]))


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of the summary, in Markdown."""
    yield "| method | runs | balanced accuracy, mean | 95 % interval (patients) | spread | lowest | highest |"
    yield "|---|---|---|---|---|---|---|"
    for method in METHODS:
        own = [r for r in rows if r["method"] == method]
        if own:
            values = np.array([r["balanced_accuracy"] for r in own])
            low, high = interval(own)
            spread = f"{values.std(ddof=1):.3f}" if len(values) > 1 else ""
            yield (
                f"| {method} | {len(own)} | {values.mean():.3f} | [{low:.3f}, {high:.3f}] | {spread} | "
                f"{values.min():.3f} | {values.max():.3f} |"
            )


def main() -> None:
    """Run what is missing, template by template, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=Path, required=True, help="table of tiles (CSV)")
    parser.add_argument("--output", type=Path, required=True, help="results, one JSON line per run")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--templates", type=int, default=8)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    tiles = read_tiles(given.tiles)
    length = {"steps": given.steps, "batch": given.batch}
    lines = given.output.read_text().splitlines() if given.output.exists() else []
    rows = [r for r in map(json.loads, lines) if length.items() <= r.items()]
    done = {(r["method"], r["template"], r["seed"]) for r in rows}
    for seed, template in enumerate(template_numbers(tiles, given.templates)):
        for method in given.methods:
            if (method, template, seed) in done:
                continue
            row = run(method, tiles, template, seed, **length)
            rows.append(row)
            with given.output.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{method}, template {template}: balanced accuracy {row['balanced_accuracy']:.3f}", flush=True)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
