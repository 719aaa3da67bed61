"""Weights of the reference project become a run that translates as the reference would."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax import conversion, translation
from medgen_jax.core.errors import UserError
from medgen_jax.sampling import load_sampler

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small random generator and discriminator in the reference's files, and the torch modules."""
    from twins import pix2pix as twins

    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for name, module in (
        ("G", twins.UNet(in_channels=1, out_channels=3, ngf=8, downs=6, norm="batch")),
        ("D", twins.PatchGAN(in_channels=4, ndf=8, norm="batch")),
    ):
        twins.randomise(module, 0)
        torch.save(module.state_dict(), folder / f"latest_net_{name}.pth")
        made[name] = module.eval()
    return folder, made


def test_the_converted_run_translates_as_the_reference(files, tmp_path):
    folder, made = files
    lines = conversion.pix2pix_from_torch(
        folder / "latest_net_G.pth", folder / "latest_net_D.pth", tmp_path / "run", size=64
    )
    text = "\n".join(lines)
    assert "1 -> 3 channels, ngf 8, downs 6, batch norm" in text
    total = sum(p.numel() for p in made["G"].parameters())
    assert f"{total:,} of {total:,} parameters matched" in text
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 1)).astype(np.float32)
    ours = np.asarray(load_sampler(tmp_path / "run")({"image": images}))
    with torch.no_grad():
        theirs = made["G"](torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_translate_accepts_a_converted_run(files, tmp_path):
    from PIL import Image

    conversion.pix2pix_from_torch(files[0] / "latest_net_G.pth", None, tmp_path / "run", size=64)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    assert len(translation.translate(tmp_path / "run", tmp_path / "a.png", tmp_path / "out")) == 1


def test_refusals(files, tmp_path):
    folder, _ = files
    conversion.pix2pix_from_torch(folder / "latest_net_G.pth", None, tmp_path / "run", size=64)
    with pytest.raises(UserError, match="holds a run already"):
        conversion.pix2pix_from_torch(folder / "latest_net_G.pth", None, tmp_path / "run", size=64)
    with pytest.raises(UserError, match="U-Net"):
        conversion.pix2pix_from_torch(folder / "latest_net_D.pth", None, tmp_path / "other", size=64)
    with pytest.raises(UserError, match="nearest valid size is 128"):
        conversion.pix2pix_from_torch(folder / "latest_net_G.pth", None, tmp_path / "third", size=100)
    with pytest.raises(UserError, match=r"missing\.pth"):
        conversion.pix2pix_from_torch(folder / "missing.pth", None, tmp_path / "fourth")


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_run_goes_back_to_the_reference_unchanged(norm, tmp_path):
    from twins import pix2pix as twins

    for name, module in (
        ("G", twins.UNet(in_channels=1, out_channels=3, ngf=8, downs=5, norm=norm)),
        ("D", twins.PatchGAN(in_channels=4, ndf=8, norm=norm)),
    ):
        twins.randomise(module, 0)
        torch.save(module.state_dict(), tmp_path / f"latest_net_{name}.pth")
    there = [tmp_path / f"latest_net_{name}.pth" for name in "GD"]
    conversion.pix2pix_from_torch(*there, tmp_path / "run", size=32)
    lines = conversion.pix2pix_to_torch(tmp_path / "run", tmp_path / "back")
    assert "network 'g'" in lines[0] and "latest_net_D.pth" in lines[1]
    for file in there:
        old = torch.load(file, weights_only=True)
        new = torch.load(tmp_path / "back" / file.name, weights_only=True)
        # The reference counts batches in its norms; a converted run starts again at 0.
        assert set(old) == set(new)
        for name in old:
            assert name.endswith("num_batches_tracked") or torch.equal(old[name], new[name]), name
    with pytest.raises(UserError, match=r"latest_net_G\.pth: exists already"):
        conversion.pix2pix_to_torch(tmp_path / "run", tmp_path / "back")
