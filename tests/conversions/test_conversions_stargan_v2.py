"""Files of StarGAN v2 become runs that translate as its networks do, and runs become files; what does not fit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from test_cli import command, error_of
from weight_files import same

from medgen_jax.conversions.stargan_v2 import read, write
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore
from medgen_jax.interop import torch_file
from medgen_jax.systems import pix2pix, stargan_v2
from medgen_jax.systems.stargan_v2_options import ModelConfig

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity

SIZE, CHANNELS, WIDTH, WIDEST, STYLE, LATENT, HIDDEN = 16, 2, 2, 4, 3, 5, 6
CLASSES = ("covid", "lung", "normal")


def twins_of(size=SIZE, w_hpf=0.0):
    from twins import stargan_v2 as twins
    from twins.pix2pix import randomise

    shared = {"widest": WIDEST, "channels": CHANNELS, "width": WIDTH}
    nets = {
        "generator": twins.Generator(size, STYLE, w_hpf=w_hpf, **shared),
        "mapping_network": twins.MappingNetwork(LATENT, STYLE, len(CLASSES), HIDDEN),
        "style_encoder": twins.StyleEncoder(size, STYLE, len(CLASSES), **shared),
        "discriminator": twins.Discriminator(size, len(CLASSES), **shared),
    }
    for seed, net in enumerate(nets.values()):
        filters = {n: t.clone() for n, t in net.state_dict().items() if n == "hpf.filter"}
        randomise(net, seed)
        net.load_state_dict(filters, strict=False)
    return nets


def save(nets, path, count=4):
    torch.save({name: net.state_dict() for name, net in list(nets.items())[:count]}, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The twins, and both kinds of their files."""
    folder, nets = tmp_path_factory.mktemp("stargan"), twins_of()
    return nets, save(nets, folder / "nets_ema.ckpt", 3), save(nets, folder / "nets.ckpt")


def config(**model):
    made = stargan_v2.Config()
    made.data.crop_size, made.data.classes, made.train.steps = SIZE, CLASSES, 1
    sizes = {"channels": CHANNELS, "width": WIDTH, "max_width": WIDEST, "style": STYLE, "latent": LATENT}
    made.model = ModelConfig(**{**sizes, "hidden": HIDDEN, **model})
    return made


def test_averaged_networks_there_and_back(files, tmp_path):
    nets, path, _ = files
    text = "\n".join(read(path, tmp_path / "run"))
    assert "StarGAN v2: 16 px, 2 channels, 3 domains, width 2 to 4, no high-pass skips" in text
    assert "network 'discriminator': not given, starts fresh" in text and "classes: 0, 1, 2" in text
    system, found = restore.open_run(tmp_path / "run")
    assert found.data.classes == ("0", "1", "2") and found.data.crop_size == SIZE and found.train.batch_size == 8
    variables = restore.inference_variables(system, restore.intact_step(tmp_path / "run"))
    image = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, CHANNELS)).astype(np.float32)
    key, label = jax.random.key(3), np.array([2, 0], np.int32)
    inputs = {"image": image, "label": label, "number": np.array([4, 7], np.int32)}
    ours = jax.jit(system.samplers["latent"])(variables, inputs, key)
    z = np.stack([jax.random.normal(jax.random.fold_in(key, number), (LATENT,)) for number in (4, 7)])
    with torch.no_grad():
        style = nets["mapping_network"](torch.from_numpy(z), torch.from_numpy(label).long())
        wanted = nets["generator"](torch.from_numpy(image.transpose(0, 3, 1, 2).copy()), style).numpy()
    np.testing.assert_allclose(ours, np.clip(wanted.transpose(0, 2, 3, 1), -1, 1), atol=1e-4)
    assert (np.abs(ours) < 1).mean() > 0.3  # not all of it is clipped

    lines = write(tmp_path / "run", tmp_path / "back")
    assert "generator, mapping_network, style_encoder: " in lines[0] and "nets_ema.ckpt" in lines[0]
    assert "domains in the order of the file: 0, 1, 2" in lines
    assert same(path, tmp_path / "back" / "000000_nets_ema.ckpt")
    with pytest.raises(UserError, match=r"000000_nets_ema\.ckpt: exists already"):
        write(tmp_path / "run", tmp_path / "back")
    with pytest.raises(UserError, match="holds a run already"):
        read(path, tmp_path / "run")


def test_all_four_networks_with_the_classes_of_a_configuration(files, tmp_path):
    _, _, path = files
    lines = read(path, tmp_path / "run", config())
    assert "classes: covid, lung, normal" in lines and not any("starts fresh" in line for line in lines)
    write(tmp_path / "run", tmp_path / "back")
    assert same(path, tmp_path / "back" / "000000_nets.ckpt")


def test_high_pass_skips(tmp_path):
    """Their strength is read off the filter; a file without it needs to be told."""
    path = save(twins_of(32, w_hpf=2.5), tmp_path / "nets.ckpt")
    assert "high-pass skips over 2.5" in read(path, tmp_path / "run")[0]
    assert restore.open_run(tmp_path / "run")[1].model.w_hpf == 2.5
    write(tmp_path / "run", tmp_path / "back")
    assert same(path, tmp_path / "back" / "000000_nets.ckpt")
    state = torch.load(path, weights_only=True)
    del state["generator"]["hpf.filter"]
    torch.save(state, tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match=r"bare\.ckpt: .*with which w_hpf .*\(config\.model\.w_hpf of a --config\)"):
        read(tmp_path / "bare.ckpt", tmp_path / "other")
    told = config(w_hpf=1.5)
    told.data.crop_size = 32
    assert "high-pass skips over 1.5" in read(tmp_path / "bare.ckpt", tmp_path / "other", told)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 8}, r"nets\.ckpt: holds networks of other sizes; the file says config\.model\.width=2$"),
        ({"width": None}, r"the file says config\.model\.width=2"),
        ({"channels": 3, "latent": 16}, r"says config\.model\.channels=2, config\.model\.latent=5$"),
        ({"hidden": 512}, r"says config\.model\.hidden=6$"),
        ({"w_hpf": 1.0}, r"nets\.ckpt: w_hpf 1\.0: the generator in this file has no high-pass skips"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_names_the_field(files, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read(files[2], tmp_path / "run", config(**change))


def test_what_else_does_not_fit_is_named(files, tmp_path):
    def refused(message, path, made=None):
        with pytest.raises(UserError, match=message):
            read(path, tmp_path / "run", made)

    two = config()
    two.data.classes = ("a", "b")
    refused(r"nets\.ckpt: has 3 classes, config\.data\.classes names 2", files[2], two)
    larger = config()
    larger.data.crop_size = 32
    refused(r"the file says config\.data\.crop_size=16", files[2], larger)
    refused("--config is of the system 'pix2pix'; stargan-v2 holds networks of stargan_v2", "x.ckpt", pix2pix.Config())
    refused(r"missing\.ckpt: no such file", tmp_path / "missing.ckpt")
    state = torch.load(files[2], weights_only=True)
    del state["style_encoder"]["shared.0.bias"]
    torch.save(state, tmp_path / "cut.ckpt")
    refused(r"cut\.ckpt: StarGAN v2 style_encoder weights: the file lacks shared\.0\.bias", tmp_path / "cut.ckpt")
    torch.save({"model.0.weight": torch.ones(1, 1, 4, 4)}, tmp_path / "other.ckpt")
    refused(r"other\.ckpt: .*is of none of the networks", tmp_path / "other.ckpt")


def test_a_file_of_nested_arrays(tmp_path):
    path, values = tmp_path / "nested.ckpt", np.arange(6, dtype=np.float32).reshape(2, 3)
    torch_file.write_state_dict(path, {"a": {"w": values, "b": {"c": values[0]}}, "n": np.array(7)})
    found = torch.load(path, weights_only=True)
    assert list(found) == ["a", "n"] and torch.equal(found["a"]["w"], torch.from_numpy(values))
    assert found["a"]["b"]["c"].tolist() == [0.0, 1.0, 2.0] and int(found["n"]) == 7


def test_runs_of_other_systems_have_no_such_files(tmp_path):
    import untrained_runs

    made = pix2pix.Config()
    made.data.crop_size, made.train.steps, made.model.downs, made.model.ngf, made.model.ndf = 32, 1, 5, 1, 1
    run = untrained_runs.write(tmp_path / "run", made)
    with pytest.raises(UserError, match="is of the system 'pix2pix'; stargan-v2 holds networks of stargan_v2"):
        write(run, tmp_path / "out")


def test_a_missing_flag_is_named(tmp_path):
    assert "--file is missing" in error_of(command("convert", "--from=stargan-v2", f"--output={tmp_path / 'run'}"))


@pytest.mark.slow
@pytest.mark.ci_slow
def test_the_commands(files, tmp_path):
    run = tmp_path / "run"
    done = command("convert", "--from=stargan-v2", f"--file={files[1]}", f"--output={run}")
    assert done.returncode == 0 and "classes: 0, 1, 2" in done.stdout, done.stderr
    done = command("convert", "--to=stargan-v2", f"--workdir={run}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert same(files[1], tmp_path / "out" / "000000_nets_ema.ckpt")
