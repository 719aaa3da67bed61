"""The FID network against its PyTorch twin: random weights at small sizes, published weights on an X-ray."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from medgen_jax.interop.inception_layout import variables_from_pack  # noqa: E402
from medgen_jax.interop.packs import read_pack  # noqa: E402
from medgen_jax.nn import inception_fid as fid  # noqa: E402
from twins.inception import Inception  # noqa: E402

pytestmark = pytest.mark.parity


def state(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def random_twin() -> torch.nn.Module:
    """Random kernels, gains, shifts and statistics that keep the size of activations."""
    twin, generator = Inception().eval(), torch.Generator().manual_seed(0)
    for name, tensor in twin.state_dict().items():
        if tensor.ndim == 4:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.copy_(0.75 + 0.5 * torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return twin


@torch.inference_mode()
def run(twin: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return twin(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


def assert_close(got: Any, wanted: np.ndarray) -> None:
    assert wanted.shape == (len(got), fid.WIDTH) and wanted.std() > 0.05
    assert np.abs(np.asarray(got) - wanted).max() <= 1e-4 * np.ptp(wanted)


@pytest.mark.parametrize("size", [(75, 75), (107, 139)])
def test_random_weights(random_twin: torch.nn.Module, size: tuple[int, int]) -> None:
    x = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    got = jax.jit(fid.InceptionFid().apply)(variables_from_pack(state(random_twin)), x)
    assert_close(got, run(random_twin, x))


def test_published_weights_on_an_x_ray(shared: pathlib.Path) -> None:
    """The whole path of pytorch-fid: [0, 1], torch's own resize, [-1, 1], network."""
    path = shared / "weights" / "inception_fid_2015_fp32.npz"
    image = shared / "data" / "cxr" / "normal" / "IM-0117-0001.jpg"
    if not (path.is_file() and image.is_file()):
        pytest.skip(f"needs {path.name} and {image.name} of the shared folder, which are absent")
    arrays, twin = read_pack(path), Inception().eval()
    lacking, surplus = twin.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()}, strict=False)
    assert not surplus and all(name.endswith("bn.weight") for name in lacking)  # ones from the start
    grey = np.asarray(Image.open(image))[None, :, :, None]
    unit = torch.from_numpy(grey.repeat(3, axis=-1).transpose(0, 3, 1, 2) / np.float32(255))
    resized = torch.nn.functional.interpolate(unit, size=(299, 299), mode="bilinear", align_corners=False)
    wanted = run(twin, (2 * resized - 1).numpy().transpose(0, 2, 3, 1))
    got = jax.jit(fid.features, static_argnames="resize")(variables_from_pack(arrays), grey, resize="pytorch-fid")
    assert_close(got, wanted)
