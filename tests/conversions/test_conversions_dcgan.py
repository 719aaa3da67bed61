"""Files of the DCGAN baseline become runs that draw as its generator does, and runs become files; what does not fit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from test_cli import command, error_of

from medgen_jax.conversions.dcgan import FILE, read, write
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore, rundir
from medgen_jax.systems import dcgan, gan

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity

SIZE, CHANNELS, LATENT, NGF, NDF = 16, 1, 5, 2, 3


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The twins, and a file as the baseline's training leaves it."""
    from twins import dcgan as twins
    from twins.pix2pix import randomise

    nets = {
        "generator": twins.Generator(CHANNELS, LATENT, NGF, 2),
        "discriminator": twins.Discriminator(CHANNELS, NDF, 2),
    }
    for seed, net in enumerate(nets.values()):
        randomise(net, seed)
    path = tmp_path_factory.mktemp("dcgan") / FILE
    adam = torch.optim.Adam(nets["discriminator"].parameters())
    nets["discriminator"](torch.ones(2, CHANNELS, SIZE, SIZE)).sum().backward()
    adam.step()
    for net in nets.values():
        net.eval()
        for name, tensor in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.zero_()  # a run of ours starts to count at its step
    states = {name: net.state_dict() for name, net in nets.items()}
    torch.save(states | {"optimizerD": adam.state_dict(), "params": {"nz": LATENT, "imsize": SIZE, "lr": 2e-4}}, path)
    return nets, path


def config(**model):
    made = dcgan.Config()
    made.data.crop_size, made.train.steps, made.train.batch_size = SIZE, 1, 4
    made.model = dcgan.ModelConfig(**{"channels": CHANNELS, "latent": LATENT, "ngf": NGF, "ndf": NDF, **model})
    return made


def test_there_and_back(file, tmp_path):
    nets, path = file
    text = "\n".join(read(path, tmp_path / "run"))
    assert "DCGAN: 16 px, 1 channels, codes of 5 numbers, ngf 2" in text and "fresh" not in text
    system, found = restore.open_run(tmp_path / "run")
    assert (found.train.batch_size, found.train.epochs, found.model.ndf) == (128, 100.0, NDF)
    variables = restore.inference_variables(system, restore.intact_step(tmp_path / "run"))
    z = np.random.default_rng(0).standard_normal((3, LATENT)).astype(np.float32)
    ours = jax.jit(system.samplers["latent"])(variables, {"z": z}, jax.random.key(0))
    with torch.no_grad():
        wanted = nets["generator"](torch.from_numpy(z)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.1

    text = "\n".join(write(tmp_path / "run", tmp_path / "back"))
    assert "network 'g': " in text and "network 'd': " in text and text.endswith(FILE)
    one, other = (torch.load(place, weights_only=True) for place in (path, tmp_path / "back" / FILE))
    assert {name: int(size) for name, size in other["params"].items()} == {
        "imsize": SIZE, "nc": CHANNELS, "nz": LATENT, "ngf": NGF, "ndf": NDF,
    }  # fmt: skip
    for name in nets:
        assert list(one[name]) and set(one[name]) == set(other[name])
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name])
    with pytest.raises(UserError, match=r"model_final\.pth: exists already"):
        write(tmp_path / "run", tmp_path / "back")
    with pytest.raises(UserError, match="holds a run already"):
        read(path, tmp_path / "run")


def test_a_generator_alone(file, tmp_path):
    torch.save(file[0]["generator"].state_dict(), tmp_path / "g.pth")
    lines = read(tmp_path / "g.pth", tmp_path / "run", config())
    assert "network 'd': not given, starts fresh" in lines
    assert restore.open_run(tmp_path / "run")[1].train.batch_size == 4


def test_what_does_not_fit_is_named(file, tmp_path):
    def refused(message, path, made=None):
        with pytest.raises(UserError, match=message):
            read(path, tmp_path / "run", made)

    refused(
        r"model_final\.pth: holds networks of other sizes; the file says config\.model\.ngf=2$", file[1], config(ngf=4)
    )
    refused(r"says config\.model\.channels=1, config\.model\.ndf=3$", file[1], config(channels=3, ndf=64))
    larger = config()
    larger.data.crop_size = 32
    refused(r"the file says config\.data\.crop_size=16$", file[1], larger)
    refused("--config is of the system 'gan'; dcgan holds networks of dcgan", "x.pth", gan.Config())
    refused(r"missing\.pth: no such file", tmp_path / "missing.pth")
    torch.save({"main.0.weight": torch.ones(1)}, tmp_path / "other.pth")
    refused(r"other\.pth: DCGAN weights: main\.0\.weight is of none of the networks", tmp_path / "other.pth")


def test_runs_of_other_systems_have_no_such_file(tmp_path):
    made = gan.Config()
    made.data.crop_size, made.train.steps, made.train.batch_size = 8, 1, 2
    rundir.write_config(tmp_path, "gan", configs.to_dict(configs.resolve(made, num_train=1)), {})
    with pytest.raises(UserError, match="is of the system 'gan'; dcgan holds networks of dcgan"):
        write(tmp_path, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.ci_slow
def test_the_commands(file, tmp_path):
    assert "--file is missing" in error_of(command("convert", "--from=dcgan", f"--output={tmp_path / 'run'}"))
    done = command("convert", "--from=dcgan", f"--file={file[1]}", f"--output={tmp_path / 'run'}")
    assert done.returncode == 0 and "ngf 2" in done.stdout, done.stderr
    done = command("convert", "--to=dcgan", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0 and (tmp_path / "out" / FILE).is_file(), done.stderr
