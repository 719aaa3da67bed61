"""Toy chest X-rays of three classes in the layout of COVID-QU-Ex, runs on them that were never trained, and a judge."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import small_networks
import small_systems
import untrained_runs
from PIL import Image

from medgen_jax.data.builders import prepare
from medgen_jax.pretrained import Pretrained
from medgen_jax.systems.stain_classifier import Normaliser

#: Class -> grey of its images.
CLASSES = {"COVID-19": 60, "Non-COVID": 120, "Normal": 180}
COUNTS = {"Train": 12, "Val": 4, "Test": 6}
SIZE, JUDGED = 16, 32
STEPS = 40


def points(variables, images):
    """Points whose squared distance is the mean squared difference of images, times a weight."""
    pixels = images.reshape(len(images), -1)
    return (variables["scale"] * pixels / jnp.sqrt(pixels.shape[1]),)


NETWORKS = small_networks.NETWORKS | {"lpips_points": Pretrained(points, {"scale": np.float32(2)}, "c" * 64, "points")}


def networks(name):
    """What the study takes as its source of networks."""
    return NETWORKS[name]


def lungs():
    """Where all of the images have their lungs, (SIZE, SIZE) bool: 60 of 256 pixels."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[3:13, 3:6] = mask[3:13, 10:13] = True
    return mask


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_data(root):
    """The prepared set: greys by class, brighter in the lungs, all with noise. The same without masks is in plain/."""
    rng, mask = np.random.default_rng(0), lungs()
    for split, count in COUNTS.items():
        for name, grey in CLASSES.items():
            folder = root / "source" / "Lung Segmentation Data" / split / name
            for i in range(count):
                image = (grey + 20 * mask + rng.integers(-15, 16, (SIZE, SIZE))).astype(np.uint8)
                Image.fromarray(image).save(_made(folder / "images") / f"{i}.png")
                Image.fromarray(255 * mask.astype(np.uint8)).save(_made(folder / "lung masks") / f"{i}.png")
                Image.fromarray(image).save(_made(root / "plain" / split.lower() / name) / f"{i}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare("covid_qu_ex", root / "source", root / "prepared", say=str)


def write_run(root, system, data, classes=tuple(CLASSES), name=None):
    """A run of a system at its toy size on the data."""
    config = small_systems.CONFIGS[system]()
    config.data.source = str(data)
    if system not in ("gan", "dcgan"):
        config.data.classes = tuple(classes)
    return untrained_runs.write(root / (name or system), config)


def write_judge(root, classes=tuple(CLASSES), name="judge"):
    """A classifier of grey images, whose configuration learns the greys in `STEPS` steps."""
    config = small_systems.CONFIGS["stain_classifier"]()
    config.data.crop_size, config.data.classes, config.data.flip = JUDGED, tuple(classes), False
    config.train.batch_size, config.train.steps = 8, STEPS
    config.norm.kind, config.model.channels = Normaliser.NONE, 1
    config.optim.lr = 1e-2
    return untrained_runs.write(root / name, config)
