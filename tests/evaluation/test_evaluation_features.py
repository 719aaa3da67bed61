"""Features: those of the network, whatever the batches, sizes and devices; each folder once."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import small_networks
from small_networks import NETWORKS, WIDTH

from medgen_jax.core.errors import UserError
from medgen_jax.engine.runtime import CompileCounter
from medgen_jax.evaluation import features
from medgen_jax.evaluation.devices import OnDevices
from medgen_jax.evaluation.features import Extractor
from medgen_jax.evaluation.folders import ImageSet, eight_bit
from medgen_jax.nn.inception_fid import SIZE
from medgen_jax.ops.resize import resize


@pytest.fixture(scope="module")
def extractor():
    return Extractor(NETWORKS["inception"], "torch-fidelity", 3)


@pytest.fixture
def mixed(tmp_path):
    """Seven images of two sizes, colours and depths."""
    small_networks.write(tmp_path, small_networks.pictures(4), prefix="b")
    small_networks.write(tmp_path, small_networks.pictures(2, seed=1, size=(20, 32), channels=3), prefix="a")
    small_networks.write(tmp_path, small_networks.pictures(1, seed=2, bits=16), prefix="c")
    return ImageSet.open("--real", tmp_path)


def test_rows_are_the_networks_own_in_the_order_of_names(extractor, mixed):
    found = features.extract(mixed, extractor)
    assert found.shape == (7, WIDTH) and found.dtype == np.float32
    for i, row in enumerate(found):
        whole = resize(eight_bit(mixed.image(i))[None], (SIZE, SIZE), "tf1-bilinear")
        expected = small_networks.features(NETWORKS["inception"].variables, whole, None)[0]
        np.testing.assert_allclose(row, expected, rtol=2e-5, atol=2e-5)


def test_batches_divide_among_the_devices(extractor):
    assert jax.local_device_count() == 4 and extractor.batch == 4
    assert Extractor(NETWORKS["inception"], "torch-fidelity", 5, jax.devices()[:1]).batch == 5


def test_only_the_resize_compiles_for_another_size(extractor):
    extractor(np.zeros((1, 24, 24, 3), np.uint8))
    with CompileCounter() as counter:
        extractor(np.ones((4, 24, 24, 3), np.uint8))
        assert sum(counter.take().values()) == 0
        extractor(np.ones((2, 9, 7, 3), np.uint8))
        names = counter.take()
    assert not [name for name in names if "function" in name and names[name] > 1]
    assert len([name for name in names if "lambda" in name]) <= 1


def test_filling_never_shows():
    run = OnDevices([lambda k, x, y: {"sum": x + k * y}], 4)
    x, y = np.arange(3.0), np.ones(3)
    np.testing.assert_array_equal(run(np.float32(2), x, y)["sum"], [2, 3, 4])


@pytest.mark.parametrize("protocol", ["clean-fid", "pytorch-fid"])
def test_the_protocol_reaches_resize_network_and_record(protocol):
    asked = []

    def apply(variables, images, resize):
        asked.append(resize)
        return images[:, 0, 0]

    network = NETWORKS["inception"]._replace(apply=apply, variables={})
    extractor = Extractor(network, protocol, 1, jax.devices()[:1])
    image = np.zeros((1, 40, 40, 3), np.uint8)
    image[:, 20:] = 255
    np.asarray(extractor(image))
    assert set(asked) == {protocol} and extractor.conditions["resize"].startswith(protocol)


def test_a_folder_is_computed_once(extractor, mixed, tmp_path_factory, monkeypatch):
    cache, said = tmp_path_factory.mktemp("cache"), []
    first = features.cached(mixed, extractor, cache, said.append)
    np.testing.assert_array_equal(first, features.extract(mixed, extractor))
    monkeypatch.setattr(features, "extract", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(features.cached(mixed, extractor, cache, said.append), first)
    assert said == ["--real: features of 7 images come from the cache"]


def test_without_a_cache_nothing_is_kept(extractor, mixed, monkeypatch):
    monkeypatch.setattr(features.cache, "load", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(features.cache, "store", lambda *_: pytest.fail("kept"))
    assert len(features.cached(mixed, extractor, None, print)) == 7


def test_a_damaged_entry_is_computed_anew(extractor, mixed, tmp_path_factory):
    cache, said = tmp_path_factory.mktemp("cache"), []
    first = features.cached(mixed, extractor, cache, said.append)
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:-30])
    np.testing.assert_array_equal(features.cached(mixed, extractor, cache, said.append), first)
    assert len(said) == 1 and "damaged" in said[0]
    features.cached(mixed, extractor, cache, said.append)
    assert "come from the cache" in said[1]  # the new entry is whole


def test_a_file_that_breaks_after_its_header_is_named(extractor, mixed):
    path = mixed.files[0]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=path.name):
        features.extract(mixed, extractor)
