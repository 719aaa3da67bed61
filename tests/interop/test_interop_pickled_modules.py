"""Pickled PyTorch modules that carry their source code: their tensors come out, and nothing in them runs."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import inert_pickles
from medgen_jax.interop.inert_pickles import read_modules

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity


@pytest.fixture
def persistence(monkeypatch):
    """The names under which such modules are pickled; calling them, as a plain pickle.load would, is an error."""

    class EasyDict(dict):
        pass

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the pickle was executed")

    made = {"torch_utils.persistence": _reconstruct_persistent_obj, "dnnlib.util": EasyDict}
    for path, thing in made.items():
        module = types.ModuleType(path)
        thing.__module__, thing.__qualname__ = path, thing.__name__
        setattr(module, thing.__name__, thing)
        monkeypatch.setitem(sys.modules, path.partition(".")[0], types.ModuleType(path.partition(".")[0]))
        monkeypatch.setitem(sys.modules, path, module)
    return types.SimpleNamespace(rebuild=_reconstruct_persistent_obj, options=EasyDict)


class Persistent:
    """Pickles as the name of a function and the source code and state of a module."""

    def __init__(self, persistence, source="raise SystemExit", **state):
        self.state = {"training": False, "_non_persistent_buffers_set": set(), "gain": np.sqrt(2.0)}
        self.state |= {f"_{kind}": collections.OrderedDict() for kind in ("parameters", "buffers", "modules")}
        self.state |= {f"_{kind}": collections.OrderedDict(found) for kind, found in state.items()}
        self.state["_init_kwargs"] = persistence.options(num_layers=2, more=persistence.options(x=1.5))
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": "Net", "state": self.state}
        self.rebuild = persistence.rebuild

    def __reduce__(self):
        return self.rebuild, (self.meta,)


def snapshot(persistence, **of_layer):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3), requires_grad=False)
    layer = Persistent(persistence, parameters={"weight": weight, "bias": None}, **of_layer)
    net = Persistent(persistence, buffers={"w_avg": torch.tensor([7.0, 8.0])}, modules={"fc0": layer})
    return {"training_set_kwargs": {"path": "x", "xflip": True}, "G_ema": net, "augment_pipe": None}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_tensors_come_out_by_name(persistence, protocol):
    content = pickle.dumps(snapshot(persistence, buffers={"strength": torch.tensor(0.5)}), protocol)
    arrays = read_modules(content, "x.pkl")
    assert set(arrays) == {"G_ema.w_avg", "G_ema.fc0.weight", "G_ema.fc0.strength"}
    np.testing.assert_array_equal(arrays["G_ema.fc0.weight"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["G_ema.w_avg"], [7, 8])
    assert arrays["G_ema.fc0.strength"].shape == () and float(arrays["G_ema.fc0.strength"]) == 0.5


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(target, *more):
    return [
        Call(os.system, f"touch {target}"),
        Call(eval, f"open({str(target)!r}, 'w')"),
        Call(exec, f"open({str(target)!r}, 'w')"),
        Call(subprocess.Popen, ["touch", str(target)]),
        Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, f"touch {target}"))),
        *more,
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("place", ["top", "buffer", "source"])
def test_code_is_refused_by_its_name_and_never_run(persistence, tmp_path, number, place):
    target = tmp_path / "ran"
    code = hostile(target)[number]
    if place == "top":
        content = pickle.dumps({"G": code})
    elif place == "buffer":
        content = pickle.dumps(snapshot(persistence, buffers={"x": code}))
    else:
        content = pickle.dumps(snapshot(persistence, source=code))
    with pytest.raises(UserError, match=r"x\.pkl: refused, because it asks for \S+, which is never executed"):
        read_modules(content, "x.pkl")
    assert not target.exists()


def test_the_hostile_pickles_are_real(tmp_path):
    target = tmp_path / "ran"
    pickle.loads(pickle.dumps(hostile(target)[0]))
    assert target.exists()


def test_source_code_stays_text(persistence, tmp_path):
    target = tmp_path / "ran"
    content = pickle.dumps(snapshot(persistence, source=f"open({str(target)!r}, 'w')"))
    assert "G_ema.fc0.weight" in read_modules(content, "x.pkl") and not target.exists()


def test_other_content_and_damage_are_refused(persistence, monkeypatch):
    def refused(words, thing):
        with pytest.raises(UserError, match=rf"x\.pkl: .*{words}"):
            read_modules(thing if isinstance(thing, bytes) else pickle.dumps(thing), "x.pkl")

    good = pickle.dumps(snapshot(persistence))
    refused("its pickle is damaged", good[: len(good) // 2])
    refused("its pickle is damaged", b"no pickle")
    refused("holds no dictionary of modules", [1, 2])
    refused("one of its modules has no parameters", {"G": Call(persistence.rebuild, {"state": {"_buffers": {}}})})
    refused("one of its storages has no bytes", {"x": Call(torch.storage._load_from_bytes, 3)})
    refused("one of its storages is damaged", {"x": Call(torch.storage._load_from_bytes, b"\x80\x02K")})
    five = b"\x80\x02K\x01." * 5
    refused("is no little-endian float32 storage", {"x": Call(torch.storage._load_from_bytes, five)})
    refused("asks for torch.DoubleStorage", {"x": torch.zeros(2, dtype=torch.float64)})
    refused("is not contiguous", {"x": torch.zeros(2, 3).T})
    place = good.index(np.array([7, 8], "<f4").tobytes())
    refused("no little-endian float32 storage", good[: place - 8] + b"\x03" + good[place - 7 :])
    monkeypatch.setattr(inert_pickles, "BUDGET", 100)
    refused("takes more than the 100 bytes allowed", good)


@pytest.mark.parametrize("name", inert_pickles._MODULES, ids=".".join)
def test_a_pickle_cannot_alter_what_stands_in_for_its_names(name):
    state = b"N}X\x07\x00\x00\x00alteredK\x01s\x86"  # the form that sets attributes one by one
    content = b"\x80\x02c" + f"{name[0]}\n{name[1]}\n".encode() + state + b"b."
    with pytest.raises(UserError, match=r"alters a function|is damaged"):
        read_modules(content, "x.pkl")
    assert not hasattr(inert_pickles._MODULES[name], "altered")
