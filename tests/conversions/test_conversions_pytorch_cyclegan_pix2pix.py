"""Weights of the reference project become a run that translates as the reference would."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.conversions.pytorch_cyclegan_pix2pix import find_files, read, write
from medgen_jax.core.errors import UserError
from medgen_jax.sampling import load_sampler
from medgen_jax.translation.files import translate_run

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
    lines = read(find_files(folder), tmp_path / "run", size=64)
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

    read({"G": files[0] / "latest_net_G.pth"}, tmp_path / "run", size=64)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    assert len(translate_run(tmp_path / "run", tmp_path / "a.png", tmp_path / "out")) == 1


def test_refusals(files, tmp_path):
    folder, _ = files
    read({"G": folder / "latest_net_G.pth"}, tmp_path / "run", size=64)
    with pytest.raises(UserError, match="holds a run already"):
        read({"G": folder / "latest_net_G.pth"}, tmp_path / "run", size=64)
    with pytest.raises(UserError, match=r"latest_net_D\.pth: U-Net"):
        read({"G": folder / "latest_net_D.pth"}, tmp_path / "other", size=64)
    with pytest.raises(UserError, match="nearest valid size is 128"):
        read({"G": folder / "latest_net_G.pth"}, tmp_path / "third", size=100)
    with pytest.raises(UserError, match=r"missing\.pth"):
        read({"G": folder / "missing.pth"}, tmp_path / "fourth")


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_run_goes_back_to_the_reference_unchanged(norm, tmp_path):
    from twins import pix2pix as twins

    for name, module in (
        ("G", twins.UNet(in_channels=1, out_channels=3, ngf=8, downs=5, norm=norm)),
        ("D", twins.PatchGAN(in_channels=4, ndf=8, norm=norm)),
    ):
        twins.randomise(module, 0)
        torch.save(module.state_dict(), tmp_path / f"latest_net_{name}.pth")
    there = find_files(tmp_path)
    read(there, tmp_path / "run", size=32)
    lines = write(tmp_path / "run", tmp_path / "back")
    assert "network 'g'" in lines[0] and "latest_net_D.pth" in lines[1]
    for file in there.values():
        old = torch.load(file, weights_only=True)
        new = torch.load(tmp_path / "back" / file.name, weights_only=True)
        # The reference counts batches in its norms; a converted run starts again at 0.
        assert set(old) == set(new)
        for name in old:
            assert name.endswith("num_batches_tracked") or torch.equal(old[name], new[name]), name
    with pytest.raises(UserError, match=r"latest_net_G\.pth: exists already"):
        write(tmp_path / "run", tmp_path / "back")


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """The four networks of a small CycleGAN in the reference's files, and the torch generators."""
    from twins import cyclegan as resnet
    from twins import pix2pix as patch

    folder, made = tmp_path_factory.mktemp("cycle"), {}
    for seed, (name, module) in enumerate({
        "G_A": resnet.ResNetGenerator(1, 3, ngf=4, blocks=2), "G_B": resnet.ResNetGenerator(3, 1, ngf=4, blocks=2),
        "D_A": patch.PatchGAN(3, ndf=4, norm="instance"), "D_B": patch.PatchGAN(1, ndf=4, norm="instance"),
    }.items()):  # fmt: skip
        patch.randomise(module, seed)
        torch.save(module.state_dict(), folder / f"latest_net_{name}.pth")
        made[name] = module.eval()
    return folder, made


def assert_translates(run, sampler, twin, channels):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 24, 24, channels)).astype(np.float32)
    ours = np.asarray(load_sampler(run, sampler)({"image": images}))
    with torch.no_grad():
        theirs = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_cyclegan_there_and_back(cycle, tmp_path):
    folder, made = cycle
    lines = read(find_files(folder), tmp_path / "run", size=24)
    assert "network 'g_a': ResNet, 1 -> 3 channels, ngf 4, 2 blocks, instance norm" in lines
    assert_translates(tmp_path / "run", "a2b", made["G_A"], 1)
    assert_translates(tmp_path / "run", "b2a", made["G_B"], 3)
    assert len(write(tmp_path / "run", tmp_path / "back")) == 4
    for file in find_files(folder).values():
        old, new = (torch.load(f, weights_only=True) for f in (file, tmp_path / "back" / file.name))
        assert set(old) == set(new) and all(torch.equal(old[k], new[k]) for k in old)


def test_statistics_that_old_files_carry_are_dropped(cycle, tmp_path):
    folder, made = cycle
    state = torch.load(folder / "latest_net_G_A.pth", weights_only=True)
    for place, width in ((2, 4), (5, 8), (8, 16)):
        state |= {f"model.{place}.running_mean": torch.ones(width), f"model.{place}.running_var": torch.ones(width)}
    torch.save(state, tmp_path / "latest_net_G.pth")
    lines = read(find_files(tmp_path), tmp_path / "run", size=24)
    assert "network 'g_b': not given, starts fresh" in lines
    assert_translates(tmp_path / "run", "a2b", made["G_A"], 1)


def test_cyclegan_files_that_do_not_belong_together(cycle, tmp_path):
    folder, _ = cycle
    files = find_files(folder)
    with pytest.raises(UserError, match=r"'g_b': is a ResNet, 1 -> 3 channels.* does not undo"):
        read({**files, "G_B": files["G_A"]}, tmp_path / "one", size=24)
    with pytest.raises(UserError, match="'d_a': judges 1 channels, its generator makes 3"):
        read({**files, "D_A": files["D_B"]}, tmp_path / "two", size=24)
    with pytest.raises(UserError, match=r"no 200_net_G\.pth or 200_net_G_A\.pth; it has the epochs latest"):
        find_files(folder, "200")
