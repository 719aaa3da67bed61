"""Batches: an image depends on its number, not on the batch, the devices, or where a call began."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.ops.scale import from_unit
from medgen_jax.synthesis import drawing, writing
from medgen_jax.synthesis.plan import Item
from medgen_jax.systems.numbered import codes

NUMBER, SCALE = Field((), "int32"), Field((), "float32")
VARIABLES = {"step": np.float32(0.01)}


def paint(grey):
    return jnp.broadcast_to(grey[:, None, None, None], (*grey.shape, 2, 3, 1))


def by_number(variables, inputs, key):
    return paint(variables["step"] * inputs["number"].astype(jnp.float32) * inputs["scale"])


def by_code(variables, inputs, key):
    return paint(jnp.tanh(inputs["z"][:, 0]))


def rows(numbers):
    return [(n, {"number": np.int32(n)}) for n in numbers]


def drawn(function, inputs, wanted, *, constants=None, dtype=np.uint8, batch=4, devices=1, seed=0):
    draw = drawing.make_draw(function, inputs, constants or {}, dtype)
    program = drawing.compile_batch(
        draw, VARIABLES, wanted[0][1], seed, count=len(wanted), batch=batch, devices=jax.devices()[:devices]
    )
    found = list(program.images(wanted))
    assert [tag for tag, _ in found] == [tag for tag, _ in wanted]
    return program, np.stack([levels for _, levels in found])


@pytest.mark.parametrize("devices", [1, 4])
def test_images_by_number_in_batches_of_one_size(devices):
    inputs, constants = {"number": NUMBER, "scale": SCALE}, {"scale": np.asarray(2, np.float32)}
    program, made = drawn(by_number, inputs, rows(range(5, 16)), constants=constants, devices=devices)
    assert program.size == 4 and made.shape == (11, 2, 3, 1)
    expected = np.rint((0.02 * np.arange(5, 16) + 1) * 127.5)
    np.testing.assert_array_equal(made[:, 0, 0, 0], expected)


def test_sixteen_bits():
    inputs, constants = {"number": NUMBER, "scale": SCALE}, {"scale": np.asarray(1, np.float32)}
    _, made = drawn(by_number, inputs, rows([0, 50, 100, 200]), constants=constants, dtype=np.uint16)
    assert made.dtype == np.uint16
    np.testing.assert_allclose(made[:, 0, 0, 0].astype(int), [32768, 49151, 65535, 65535], atol=1)


def test_codes_are_those_of_the_numbers():
    own = codes(jax.random.key(3), jnp.array([9, 2]), (4,))
    _, made = drawn(by_code, {"z": Field((4,), "float32")}, rows([9, 2]), seed=3)
    np.testing.assert_array_equal(made[:, 0, 0, 0], from_unit(jnp.tanh(own[:, 0])))
    given = [(0, {"z": np.full(4, 0.5, np.float32)})]
    _, made = drawn(by_code, {"z": Field((4,), "float32")}, given)
    assert made[0, 0, 0, 0] == round((np.tanh(0.5) + 1) * 127.5)


def test_batches_are_multiples_of_the_devices_and_no_larger_than_needed():
    inputs, constants = {"number": NUMBER, "scale": SCALE}, {"scale": np.asarray(1, np.float32)}
    for count, batch, devices, size in ((3, None, 1, 3), (40, None, 1, drawing.MOST_CPU), (9, 5, 4, 8), (2, 9, 4, 4)):
        program, made = drawn(by_number, inputs, rows(range(count)), constants=constants, batch=batch, devices=devices)
        assert program.size == size
        np.testing.assert_array_equal(made[:, 0, 0, 0], np.rint((0.01 * np.arange(count) + 1) * 127.5))


def test_batches_shrink_until_they_fit(monkeypatch):
    inputs, constants = {"number": NUMBER, "scale": SCALE}, {"scale": np.asarray(1, np.float32)}
    monkeypatch.setattr(drawing, "_bytes", lambda compiled: 1000)
    monkeypatch.setattr(drawing.batching, "free_bytes", lambda: 700 / drawing.batching.SHARE)
    program, made = drawn(by_number, inputs, rows(range(10)), constants=constants, batch=None)
    assert program.size == 1 and len(made) == 10  # 10, 7, 4, 2, 1: it never seems to fit
    program, _ = drawn(by_number, inputs, rows(range(10)), constants=constants, batch=8)
    assert program.size == 8  # whoever gives a size gets it


def test_what_is_not_finite_is_refused():
    def broken(variables, inputs, key):
        return paint(jnp.where(inputs["number"] == 5, jnp.inf, 0.0))

    with pytest.raises(UserError, match="draws images that are not finite"):
        drawn(broken, {"number": NUMBER}, rows(range(6)))
    _, made = drawn(broken, {"number": NUMBER}, rows(range(5)))
    assert len(made) == 5


def test_too_little_memory_is_said_with_the_remedy():
    message = "8 images at once do not fit into memory: give a smaller --batch"
    with pytest.raises(UserError, match=message), drawing._fitting(8):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError, match="else"), drawing._fitting(8):
        raise jax.errors.JaxRuntimeError("something else")


# -- writing ----------------------------------------------------------------------------------------


def test_every_image_is_written_once():
    saved, told = [], []
    images = [(Item(i, f"{i}.png"), np.full((1, 1, 1), i, np.uint8)) for i in range(200)]
    speed = writing.write_all(
        iter(images), lambda item, levels: saved.append((item.number, int(levels[0, 0, 0]))),
        begun=0.0, compiling=3.0, done=told.append,
    )  # fmt: skip
    assert sorted(saved) == [(i, i) for i in range(200)] and sum(told) == 200
    assert (speed.images, speed.compiling) == (200, 3.0)


def test_the_speed_leaves_the_compiler_out():
    speed = writing.Speed(images=1200, seconds=10.0, compiling=4.0)
    assert speed.rate == 200
    said = "1,200 images drawn and written in 10.0 s, 4.0 s of it compiling: 200.0 images/s after that"
    assert speed.sentence() == said


def test_what_stops_writing_is_raised_and_no_image_is_lost():
    saved = []

    def images():
        for i in range(3):
            yield Item(i, f"{i}.png"), np.zeros((1, 1, 1), np.uint8)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        writing.write_all(images(), lambda item, levels: saved.append(item.number), begun=0.0, compiling=0.0)
    assert sorted(saved) == [0, 1, 2]

    def full(item, levels):
        raise UserError("disk full")

    pictures = [(Item(i, ""), np.zeros((1, 1, 1), np.uint8)) for i in range(500)]
    with pytest.raises(UserError, match="disk full"):
        writing.write_all(iter(pictures), full, begun=0.0, compiling=0.0)
