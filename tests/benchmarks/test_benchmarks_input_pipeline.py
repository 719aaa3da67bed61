"""The input pipeline apart and together: rates that agree with each other, on a step that costs nothing."""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np
import pytest

from benchmarks import cases, input_pipeline
from benchmarks.player import Player, build
from medgen_jax.engine import mesh as meshes


def tiny(batch):
    """The smallest GAN on images of 16 pixels."""
    (case,) = cases.chosen(("gan",), (cases.SMALL,))
    config = case.configure(batch)
    config.data.crop_size, config.model.widths, config.data.threads = 16, (4, 4), 2
    return config


def options(**given):
    return argparse.Namespace(**{"dtype": "float32", "rounds": 2, "batches": None} | given)


def test_ratios_by_hand():
    # Batches every 2 s, steps of 3 s: half as much again as is needed. Together 4 s, one of them waiting.
    assert input_pipeline.of_seconds(2.0, 3.0, 4.0) == {"ratio_to_need": 1.5, "stalled": 0.25}
    assert input_pipeline.of_seconds(2.0, 3.0, 2.9)["stalled"] == 0


def test_records_are_larger_than_crops_and_travel_as_bytes():
    system = build(tiny(4), "float32")
    (stream,) = system.streams.values()
    table = input_pipeline.random_table(stream, count=6)
    image = dict(stream.fields)["image"]
    assert len(table) == 6 and table.images(0)["image"].dtype == np.uint8
    assert table.images(0)["image"].shape == (18, 18, image.shape[-1])
    job = input_pipeline.in_memory(tiny(4), "float32")
    assert job.per_step == 4 and job.bytes_per_step == 4 * 16 * 16 * image.shape[-1]
    feed = job.feed(meshes.make_mesh(jax.devices()[:1]))
    batch = next(feed).batch
    feed.close()
    assert {x.dtype for x in jax.tree.leaves(batch)} == {np.dtype("uint8")}


def test_a_source_sets_the_channels():
    config = cases.chosen(("pix2pix",), (cases.SMALL,))[0].configure(2)
    job = input_pipeline.of_source(config, "float32", "isl")
    assert (config.model.in_channels, config.model.out_channels) == (1, 3)
    assert {f.shape[-1] for _, f in job.system.streams["pairs"].fields} == {1, 3}


def test_a_line_and_how_its_numbers_hang_together(capsys):
    case = cases.Case("gan", cases.SMALL, tiny, (4,), None)
    given = input_pipeline.beside_others(options())
    given.images, given.batches_apart, given.threads = 40, 3, 1
    (line,) = input_pipeline.measured([case], given)
    assert json.loads(json.dumps(line)) == line
    # 2 rounds of 5 steps of 4.
    assert line["images"] == 40 and line["threads"] == 1 and line["source"] == "memory"
    rates = [line[f"{name}_images_per_s"] for name in ("input", "step", "together")]
    assert min(rates) > 0 and line["first_batch_s"] > 0
    assert line["ratio_to_need"] == pytest.approx(rates[0] / rates[1], rel=2e-3)
    assert line["stalled"] == pytest.approx(max(0.0, 1 - rates[2] / rates[1]), abs=2e-3)
    assert line["input_mb_per_s"] == pytest.approx(rates[0] * 3 * 256 / 1e6, rel=2e-3)
    assert "x the need" in capsys.readouterr().out


def test_a_player_takes_the_steps_of_a_run():
    system = build(tiny(4), "float32")
    mesh = meshes.make_mesh(jax.devices()[:1])
    player = Player(system, mesh)
    zeros = {name: stream.zeros() for name, stream in system.streams.items()}
    batch = meshes.put_local(zeros, mesh)
    player.prepare(batch)
    assert set(player.seconds) == set(system.step_variants)
    for _ in range(3):
        player.play(batch)
    player.wait()
    assert int(player.state.step) == 3 and int(player.state.images) == 12
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        player.play(zeros)
