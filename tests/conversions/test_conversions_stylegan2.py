"""Files of two StyleGAN2 projects become runs that draw as their networks do, and runs become files; refusals."""

from __future__ import annotations

import argparse
import pickle

import jax
import numpy as np
import pytest
from test_cli import command, error_of
from weight_files import same

from medgen_jax.conversions import stylegan2_ada as ada_files
from medgen_jax.conversions import stylegan2_rosinality as rosinality_files
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore, rundir
from medgen_jax.interop import stylegan2_ada_layout, stylegan2_rosinality_layout
from medgen_jax.interop.stylegan2_single_class import with_one_class
from medgen_jax.interop.stylegan2_tables import Info
from medgen_jax.nn.stylegan2 import Mapping
from medgen_jax.systems import dcgan, pix2pix, stylegan2
from medgen_jax.systems.stylegan2_options import ModelConfig

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity

# Those of `small_systems`, so that programs are shared.
SIZE, Z, W, LAYERS, WIDTHS = 8, 5, 6, 1, (32, 8)
CLASSES = ("normal", "opacity")
PLAIN = Info(SIZE, 3, 0, W, W, 2, *WIDTHS)


def tensors(state):
    return {name: torch.from_numpy(np.array(array, np.float32)) for name, array in state.items()}


@pytest.fixture(scope="module")
def ada(tmp_path_factory):
    """Twins with two classes, and their snapshot as state dicts."""
    from twins import stylegan2 as twins

    generators = [twins.randomised(lambda: twins.Generator(SIZE, 1, 2, Z, W, LAYERS, *WIDTHS), seed) for seed in (1, 2)]
    judge = twins.randomised(lambda: twins.Discriminator(SIZE, 1, 2, LAYERS, *WIDTHS, 4), 3)
    info = Info(SIZE, 1, 2, Z, W, LAYERS, *WIDTHS, judge_layers=LAYERS)
    path = tmp_path_factory.mktemp("ada") / "network-snapshot-000100.pt"
    generators[0].load_state_dict(dict(generators[1].named_buffers()), strict=False)  # as that project's training does
    states = {}
    for name, network, twin in (("G", "g", generators[0]), ("D", "d", judge), ("G_ema", "g_ema", generators[1])):
        filters = tensors(stylegan2_ada_layout.filters(network, info))
        states[name] = {key: tensor.float() for key, tensor in twin.state_dict().items()} | filters
    torch.save(states, path)
    return generators[1], path


@pytest.fixture(scope="module")
def rosinality(tmp_path_factory):
    """Networks without classes, and their checkpoint with what a training leaves beside them."""
    rng = np.random.default_rng(0)

    def random(network):
        rows = stylegan2_rosinality_layout.tensors(network, PLAIN)
        rates = {row.name: 100.0 if row.name.startswith("style.") else 1.0 for row in rows}
        state = {row.name: rates[row.name] * rng.standard_normal(row.shape) for row in rows}
        return state | stylegan2_rosinality_layout.filters(network, PLAIN)

    states = {name: random(name) for name in ("g", "d", "g_ema")}
    states["g"] |= {name: array for name, array in states["g_ema"].items() if name.startswith("noises.")}
    path = tmp_path_factory.mktemp("rosinality") / "000100.pt"
    more = {"g_optim": {"state": {0: {"step": torch.tensor(3)}}}, "args": argparse.Namespace(size=SIZE, path="x")}
    torch.save({name: tensors(state) for name, state in states.items()} | more, path)
    return states, path


def config(**model):
    made = stylegan2.Config()
    made.data.crop_size, made.data.classes, made.train.steps, made.train.batch_size = SIZE, CLASSES, 1, 4
    base, most = WIDTHS
    sizes = {"z_dim": Z, "w_dim": W, "map_layers": LAYERS, "channel_base": base, "channel_max": most}
    made.model = ModelConfig(**{**sizes, **model})
    return made


def variables_of(run):
    system, found = restore.open_run(run)
    return system, found, restore.inference_variables(system, restore.intact_step(run))


def test_a_snapshot_with_classes_there_and_back(ada, tmp_path):
    twin, path = ada
    text = "\n".join(ada_files.read(path, tmp_path / "run", config()))
    assert "StyleGAN2: 8 px, 1 channels, 2 classes, codes of 5 numbers, w of 6, 1 mapping layers" in text
    assert "widths 8 at 4, 4 at 8 px" in text and "classes: normal, opacity" in text and "fresh" not in text
    system, _, variables = variables_of(tmp_path / "run")
    z, label = np.random.default_rng(0).standard_normal((3, Z)).astype(np.float32), np.array([1, 0, 1], np.int32)
    inputs = {"z": z, "label": label, "truncation": np.ones(3, np.float32)}
    ours = jax.jit(system.samplers["latent"])(variables, inputs, jax.random.key(0))
    with torch.no_grad():
        wanted = twin(torch.from_numpy(z).double(), torch.eye(2, dtype=torch.float64)[torch.from_numpy(label).long()])
    np.testing.assert_allclose(ours, np.clip(wanted.numpy().transpose(0, 2, 3, 1), -1, 1), atol=1e-4)
    assert (np.abs(ours) < 1).mean() > 0.1  # not all of it is clipped

    lines = ada_files.write(tmp_path / "run", tmp_path / "back")
    assert "classes in the order of the file: normal, opacity" in lines
    assert same(path, tmp_path / "back" / "network-snapshot-000000.pt")
    with pytest.raises(UserError, match=r"network-snapshot-000000\.pt: exists already"):
        ada_files.write(tmp_path / "run", tmp_path / "back")
    with pytest.raises(UserError, match="holds a run already"):
        ada_files.read(path, tmp_path / "run")
    with pytest.raises(UserError, match=r"run: 2 classes: no counterpart in the layout of rosinality"):
        rosinality_files.write(tmp_path / "run", tmp_path / "other")


def test_a_checkpoint_without_classes_there_and_back(rosinality, tmp_path):
    """Weights are those of a network of one class; the average of w is measured, and in the file that is written."""
    states, path = rosinality
    text = "\n".join(rosinality_files.read(path, tmp_path / "run"))
    assert "no classes in the file: the run has one" in text and "classes: 0" in text
    assert "no average of w in the file: that of 4096 codes" in text
    _, found, variables = variables_of(tmp_path / "run")
    assert found.data.classes == ("0",) and found.train.batch_size == 32
    wanted = with_one_class(stylegan2_rosinality_layout.from_torch(states["g_ema"], PLAIN), PLAIN)[0]["g_ema"]
    for collection, tree in wanted.items():
        assert jax.tree.structure(tree) == jax.tree.structure(variables[collection])
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, variables[collection])))
    z = np.random.default_rng(0).standard_normal((500, W)).astype(np.float32)
    mapping = Mapping(W, 0, PLAIN.map_layers, averaged=False)
    plain = stylegan2_rosinality_layout.from_torch(states["g_ema"], PLAIN)["g_ema"]["params"]["mapping"]
    w = np.asarray(jax.jit(mapping.apply)({"params": plain}, z, None))
    apart = np.abs(variables["averages"]["mapping"]["w"] - w.mean(0)) / w.std(0)
    assert apart.max() < 5 / np.sqrt(len(z))

    rosinality_files.write(tmp_path / "run", tmp_path / "back")
    back = torch.load(tmp_path / "back" / "000000.pt", weights_only=True)
    np.testing.assert_array_equal(back.pop("latent_avg").numpy(), variables["averages"]["mapping"]["w"])
    assert set(back) == set(states)
    for network, state in states.items():
        assert set(back[network]) == set(state)
        for name, wanted in tensors(state).items():
            rounded = name == "style.1.weight" or name.startswith("final_linear.1.")
            np.testing.assert_allclose(back[network][name], wanted, rtol=2e-7 if rounded else 0, err_msg=name)


def test_a_generator_with_its_average_and_nothing_else(rosinality, tmp_path):
    states, _ = rosinality
    average = np.arange(W, dtype=np.float32)
    torch.save({"g_ema": tensors(states["g_ema"]), "latent_avg": torch.from_numpy(average)}, tmp_path / "ffhq.pt")
    text = "\n".join(rosinality_files.read(tmp_path / "ffhq.pt", tmp_path / "run"))
    assert "network 'd': not given, starts fresh" in text and "4096" not in text
    assert "network 'g': not given, as the other one" in text
    np.testing.assert_array_equal(variables_of(tmp_path / "run")[2]["averages"]["mapping"]["w"], average)


def test_a_discriminator_whose_mapping_is_of_another_depth_is_left_out(ada, tmp_path):
    state = torch.load(ada[1], weights_only=True)
    state["D"] |= {"mapping.fc1.weight": torch.ones(8, 8), "mapping.fc1.bias": torch.ones(8)}
    torch.save(state, tmp_path / "auto.pt")
    text = "\n".join(ada_files.read(tmp_path / "auto.pt", tmp_path / "run"))
    assert "network 'd': starts fresh, for its mapping in the file has 2 layers and the generator's 1" in text
    assert "network 'd': not given" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": 9}, r"000100\.pt: holds networks of other sizes; the file says config\.model\.z_dim=5$"),
        ({"channel_max": 4}, r"the file says config\.model\.channel_max=8$"),
        ({"channels": 3, "map_layers": 8}, r"says config\.model\.channels=1, config\.model\.map_layers=1$"),
        ({"minibatch_group": 0}, r"the file says config\.model\.minibatch_group=4$"),
    ],
)
def test_a_wrong_configuration_names_the_field(ada, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        ada_files.read(ada[1], tmp_path / "run", config(**change))


def test_what_else_does_not_fit_is_named(ada, rosinality, tmp_path):
    def refused(message, project, path, made=None):
        with pytest.raises(UserError, match=message):
            project.read(path, tmp_path / "run", made)

    three = config()
    three.data.classes = ("a", "b", "c")
    refused(r"000100\.pt: has 2 classes, config\.data\.classes names 3", ada_files, ada[1], three)
    refused(
        "--config is of the system 'pix2pix'; stylegan2-ada holds networks of stylegan2",
        ada_files,
        "x",
        pix2pix.Config(),
    )
    refused(r"missing\.pt: no such file", ada_files, tmp_path / "missing.pt")
    refused(r"missing\.pkl: cannot be read \(No such file", ada_files, tmp_path / "missing.pkl")
    refused(r"x\.pkl: is a pickle; stylegan2-rosinality has files of torch\.save", rosinality_files, tmp_path / "x.pkl")
    refused(r"000100\.pt: .*G\.\S+ is of none of the networks g, d, g_ema", rosinality_files, ada[1])
    refused(r"000100\.pt: .* is of none of the networks G, D, G_ema", ada_files, rosinality[1])
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"G": print}))
    refused(r"evil\.pkl: refused, because it asks for builtins\.print, which", ada_files, tmp_path / "evil.pkl")
    state = torch.load(ada[1], weights_only=True)
    del state["D"]["b8.skip.weight"]
    torch.save(state, tmp_path / "cut.pt")
    refused(r"cut\.pt: StyleGAN2-ADA D weights: the file lacks b8\.skip\.weight", ada_files, tmp_path / "cut.pt")


def test_runs_of_other_systems_have_no_such_files(tmp_path):
    made = dcgan.Config()
    made.data.crop_size, made.train.steps, made.train.batch_size = 8, 1, 2
    rundir.write_config(tmp_path, "dcgan", configs.to_dict(configs.resolve(made, num_train=1)), {})
    with pytest.raises(UserError, match="is of the system 'dcgan'; stylegan2-ada holds networks of stylegan2"):
        ada_files.write(tmp_path, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.ci_slow
def test_the_commands(ada, tmp_path):
    assert "--file is missing" in error_of(command("convert", "--from=stylegan2-ada", f"--output={tmp_path / 'run'}"))
    done = command("convert", "--from=stylegan2-ada", f"--file={ada[1]}", f"--output={tmp_path / 'run'}")
    assert done.returncode == 0 and "classes: 0, 1" in done.stdout, done.stderr
    done = command("convert", "--to=stylegan2-ada", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert same(ada[1], tmp_path / "out" / "network-snapshot-000000.pt")
