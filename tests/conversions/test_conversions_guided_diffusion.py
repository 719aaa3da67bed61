"""Files of guided-diffusion become runs that answer as its networks do, and runs become files; what does not fit."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from test_cli import command, error_of
from weight_files import same

from medgen_jax import systems
from medgen_jax.conversions.guided_diffusion import read, write
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore, rundir
from medgen_jax.systems import diffusion, noise_classifier, pix2pix
from medgen_jax.systems.diffusion_options import Balance, HeadOrder, NetworkConfig, Noise, Prediction

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity

SIZE = 8
STEPS = np.array([3, 801])
#: What is compiled has one level; what is only described has two.
SMALL = {"width": 32, "multipliers": (1.0,), "blocks": 1, "attention": ()}
LARGE = {"width": 64, "multipliers": (1.0, 1.5), "blocks": 1, "attention": (4,)}
HEADS = {"head_width": 16}
CLASSES = ("Normal", "Lung Opacity")


def config(module=diffusion, **network):
    made = module.Config()
    made.data.crop_size, made.data.classes, made.train.steps = SIZE, CLASSES, 1
    made.train.precision, made.optim.lr = "float32", 1e-4
    made.network = NetworkConfig(**{**SMALL, **HEADS, "head_order": HeadOrder.NEW, **network})
    return made


def saved(twin, path, seed=1):
    from twins.pix2pix import randomise

    randomise(twin, seed=seed)
    torch.save(twin.state_dict(), path)
    return twin.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small networks in the project's files: name -> (path, twin)."""
    from twins import guided_diffusion as twins

    folder = tmp_path_factory.mktemp("guided")
    small, large = {**SMALL, **HEADS, "order": "new"}, {**LARGE, **HEADS, "attention": (2,)}
    made = {
        "classes": twins.UNet(1, 1, classes=2, **small),
        "null": twins.UNet(1, 1, classes=3, **small),
        "unconditional": twins.UNet(1, 1, **small),
        "classifier": twins.Classifier(1, 2, size=SIZE, **small),
        "large": twins.UNet(1, 1, classes=2, **large),
        "large classifier": twins.Classifier(1, 2, size=SIZE, **large),
    }
    return {name: (folder / f"{name}.pt", saved(twin, folder / f"{name}.pt")) for name, twin in made.items()}


def images():
    return np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 1)).astype(np.float32)


def theirs(twin, *labels):
    told = [torch.from_numpy(np.array(label)) for label in labels]
    with torch.no_grad():
        out = twin(torch.from_numpy(images().transpose(0, 3, 1, 2)), torch.from_numpy(STEPS), *told).numpy()
    return out.transpose(0, 2, 3, 1) if out.ndim == 4 else out


def opened(run):
    system, found = restore.open_run(run)
    return system, found, restore.inference_variables(system, restore.intact_step(run))


def denoised(run, labels):
    system, _, variables = opened(run)
    return np.asarray(jax.jit(system.denoise)(variables, images(), STEPS, {"label": np.array(labels)}))


def test_a_conditional_network_there_and_back(files, tmp_path):
    path, twin = files["classes"]
    text = "\n".join(read(path, tmp_path / "run", config()))
    total = sum(p.numel() for p in twin.parameters())
    assert f"{total + 128:,} of {total + 128:,} parameters matched" in text  # with a null row of 4 x 32
    assert "one of zeros is appended" in text and "scale must be 0" in text
    assert "classes: Normal, Lung Opacity" in text and "heads of 16 channels in new order" in text
    np.testing.assert_allclose(denoised(tmp_path / "run", [1, 0]), theirs(twin, [1, 0]), atol=1e-3)
    found = opened(tmp_path / "run")[1]
    assert found.condition.drop == 0 and found.data.classes == CLASSES
    lines = write(tmp_path / "run", tmp_path / "back")
    assert "the null row is left out" in lines[1] and "linear noise of 1000 steps, prediction of epsilon" in lines[2]
    assert same(path, tmp_path / "back" / "ema_0.9999_000000.pt")
    with pytest.raises(UserError, match=r"ema_0\.9999_000000\.pt: exists already"):
        write(tmp_path / "run", tmp_path / "back")
    with pytest.raises(UserError, match="holds a run already"):
        read(path, tmp_path / "run", config())


def test_a_null_row_in_the_file_is_kept(files, tmp_path):
    path, twin = files["null"]
    lines = read(path, tmp_path / "run", config(), null_row=True)
    assert not any("scale must be 0" in line for line in lines)
    assert opened(tmp_path / "run")[1].condition.drop == 0.1
    np.testing.assert_allclose(denoised(tmp_path / "run", [-1, 0]), theirs(twin, [2, 0]), atol=1e-3)
    write(tmp_path / "run", tmp_path / "back", null_row=True)
    assert same(path, tmp_path / "back" / "ema_0.9999_000000.pt")
    with pytest.raises(UserError, match=r"label_emb.weight has shape \(3, 128\).*classes of 3 names, or --null_row$"):
        read(path, tmp_path / "other", config())


def test_an_unconditional_network_there_and_back(files, tmp_path):
    path, twin = files["unconditional"]
    text = "\n".join(read(path, tmp_path / "run", config()))
    assert "an unconditional network, whatever label" in text and "scale must be 0" in text
    np.testing.assert_allclose(denoised(tmp_path / "run", [1, 2]), theirs(twin), atol=1e-3)
    lines = write(tmp_path / "run", tmp_path / "back")
    assert "without label_emb" in lines[1]
    assert same(path, tmp_path / "back" / "ema_0.9999_000000.pt")
    with pytest.raises(UserError, match="the file has no label_emb.weight.*says no classes: leave out --null_row$"):
        read(path, tmp_path / "other", config(), null_row=True)


def test_a_classifier_there_and_back(files, tmp_path):
    path, twin = files["classifier"]
    unnamed = config(noise_classifier)
    unnamed.data.classes = ()
    lines = read(path, tmp_path / "run", unnamed)
    assert "classes: 0, 1" in lines and not any("null row" in line for line in lines)
    system, _, variables = opened(tmp_path / "run")
    ours = jax.jit(system.classify)(variables, images(), STEPS)
    np.testing.assert_allclose(ours, theirs(twin), atol=1e-3)
    write(tmp_path / "run", tmp_path / "back")
    assert same(path, tmp_path / "back" / "model000000.pt")


# ---- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 128}, r"time_embed.0.weight has shape \(256, 64\), .*; the file says config.network.width=64$"),
        ({"width": 32}, "a level has 48 channels; .* multiples of 32 only; the file says config.network.width=64$"),
        ({"multipliers": (1.0, 2.0)}, r"input_blocks.3.0.emb_layers.1.weight.*config.network.multipliers=\(1, 1.5\)$"),
        ({"blocks": 2}, r"input_blocks.*; the file says config.network.blocks=1"),
        ({"attention": ()}, r"input_blocks.3.1.norm.weight \(96,\), .*the file says config.network.attention=\(4,\)"),
        ({"film": False}, r"emb_layers.1.weight has shape.*the file says config.network.film=True"),
        ({"resample": "conv"}, "the file says config.network.resample=block"),
        ({"channels": 3}, r"input_blocks.0.0.weight has shape \(64, 1, 3, 3\).*file says config.network.channels=1"),
        ({"multipliers": (1.0,), "width": 96, "attention": ()}, "=64, config.network.multipliers=.*attention=.4,.$"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_wrong_configuration_names_tensor_and_field(files, tmp_path, change, message):
    if "resample" in change:
        change = {"resample": type(NetworkConfig().resample)(change["resample"])}
    with pytest.raises(UserError, match=message) as caught:
        read(files["large"][0], tmp_path / "run", config(**{**LARGE, **change}))
    assert str(caught.value).startswith(f"{files['large'][0]}: ") and "\n" not in str(caught.value)


def test_wrong_classes_variance_and_pool_are_named(files, tmp_path):
    three = config()
    three.data.classes, three.loss.learned_variance = ("a", "b", "c"), True
    message = r"label_emb.weight .*; the file says config.loss.learned_variance=False, config.data.classes of 2 names$"
    with pytest.raises(UserError, match=message):
        read(files["classes"][0], tmp_path / "run", three)
    pool = config(noise_classifier)
    pool.head.pool = "adaptive"
    with pytest.raises(UserError, match=r"out.2.c_proj.weight.*the file says config.head.pool=attention"):
        read(files["classifier"][0], tmp_path / "run", pool)
    with pytest.raises(UserError, match=r"2 blocks each; .* 1, 3 would be \(.*config.network.blocks = 2\)"):
        read(files["large classifier"][0], tmp_path / "run", config(noise_classifier, blocks=2))


def test_files_that_are_cut_or_of_another_network_are_named(files, tmp_path):
    def refused(message, path, made=None):
        with pytest.raises(UserError, match=message):
            read(path, tmp_path / "run", made or config())

    state = torch.load(files["classes"][0], weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "middle_block.0.in_layers.0.bias"}, tmp_path / "cut.pt")
    refused("no middle_block.0.in_layers.0.bias .*; 1 tensor differs; the settings fit", tmp_path / "cut.pt")
    torch.save({**state, "ema.decay": torch.ones(1)}, tmp_path / "more.pt")
    refused("the file has ema.decay .1,., for which this configuration has no place", tmp_path / "more.pt")
    torch.save({"model.0.weight": torch.ones(1, 1, 4, 4)}, tmp_path / "other.pt")
    refused("other.pt: has no time_embed.0.weight, as networks of guided-diffusion do", tmp_path / "other.pt")
    refused("has no output_blocks, it is a noise classifier's; give a --config of noise_c", files["classifier"][0])
    refused("it is a diffusion U-Net's; give a --config of diffusion", files["classes"][0], config(noise_classifier))
    refused(r"missing\.pt: no such file", tmp_path / "missing.pt")
    refused(
        "--config is of the system 'pix2pix'; guided-.* diffusion and noise_classifier",
        "x.pt",
        pix2pix.Config(),
    )


def _changed(module, **change):
    made = config(module)
    for name, value in change.items():
        section, leaf = name.split("__")
        setattr(getattr(made, section), leaf, value)
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (_changed(diffusion, network__groups=16), "config.network.groups = 16: guided-diffusion has 32 groups"),
        (_changed(diffusion, data__views=("PA", "AP")), r"config.data.views = \('PA', 'AP'\): .*there must be none"),
        (_changed(diffusion, process__noise=Noise.SIGMOID), "config.process.noise = 'sigmoid'.* linear and cosine"),
        (_changed(diffusion, loss__prediction=Prediction.V), "config.loss.prediction = 'v'.* epsilon or x0"),
        (_changed(noise_classifier, network__head_width=None), "config.network.head_width = None: .*by their width"),
        (_changed(diffusion, network__width=48), ".*a level has 48 channels; the layout knows multiples of 32 only"),
    ],
)
def test_what_the_layout_cannot_express_is_refused_both_ways(files, tmp_path, made, message):
    with pytest.raises(UserError, match=f"^{message}"):
        read(files["classes"][0], tmp_path / "run", made)
    resolved = configs.to_dict(configs.resolve(dataclasses.replace(made, balance=Balance.NONE), num_train=1))
    run = tmp_path / "written"
    run.mkdir()
    rundir.write_config(run, systems.name_of(made), resolved, {})
    with pytest.raises(UserError, match=f"written: {message}"):
        write(run, tmp_path / "out")


# ---- the command ---------------------------------------------------------------------------------


def test_a_missing_flag_is_named(tmp_path):
    words = ("--from=guided-diffusion", "--config=diffusion_cpu", f"--output={tmp_path / 'run'}")
    assert "--file is missing" in error_of(command("convert", *words))


@pytest.mark.slow
@pytest.mark.ci_slow
def test_the_commands(files, tmp_path):
    settings = ("data.crop_size=8", "data.load_size=8", "data.classes=('a', 'b')", "network.multipliers=(1.0,)",
                "network.attention=()", "network.head_width=16", "network.head_order=new",
                "loss.prediction=epsilon")  # fmt: skip
    words = [f"--config.{setting}" for setting in settings]
    path, run = files["classes"][0], tmp_path / "run"
    done = command(
        "convert", "--from=guided-diffusion", f"--file={path}", "--config=diffusion_cpu", *words, f"--output={run}"
    )
    assert done.returncode == 0 and "classes: a, b" in done.stdout, done.stderr
    done = command("convert", "--to=guided-diffusion", f"--workdir={run}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert same(path, tmp_path / "out" / "ema_0.995_000000.pt")
