"""Reading PyTorch files: what comes out, and what is refused."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop.torch_file import read_state_dict


class Payload:
    """Runs a shell command when unpickled."""

    def __init__(self, marker: pathlib.Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"latest_net_G\.pth: no such file"):
        read_state_dict(tmp_path / "latest_net_G.pth")


def test_missing_torch_names_the_extra(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"g\.pth: .*needs PyTorch; pip install 'medgen_jax\[torch\]'"):
        read_state_dict(tmp_path / "g.pth")


@pytest.mark.parametrize("version", ["2.5.1", "1.13.0+cpu"])
def test_old_torch_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    (tmp_path / "g.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=version))
    with pytest.raises(UserError, match=r"cannot read files safely, 2\.6 or later"):
        read_state_dict(tmp_path / "g.pth")


@pytest.mark.parity
class TestWithTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    def save(self, torch, tmp_path: pathlib.Path, content: object, **options: object) -> pathlib.Path:
        path = tmp_path / "net.pth"
        torch.save(content, path, **options)
        return path

    @pytest.mark.parametrize("zipped", [True, False])
    def test_values_and_dtypes(self, torch, tmp_path: pathlib.Path, zipped: bool) -> None:
        weight = torch.arange(6.0).reshape(2, 3)
        content = {
            "weight": torch.nn.Parameter(weight.T),
            "half": weight.half(),
            "brain": weight.bfloat16(),
            "count": torch.tensor(7),
        }
        state = read_state_dict(self.save(torch, tmp_path, content, _use_new_zipfile_serialization=zipped))
        assert list(state) == ["weight", "half", "brain", "count"]
        np.testing.assert_array_equal(state["weight"], np.arange(6, dtype=np.float32).reshape(2, 3).T)
        for name in ("half", "brain"):
            assert state[name].dtype == np.float32
            np.testing.assert_array_equal(state[name], weight.numpy())
        assert state["count"].dtype == np.int64
        assert int(state["count"]) == 7

    def test_data_parallel_prefix_is_stripped_per_dictionary(self, torch, tmp_path: pathlib.Path) -> None:
        one = torch.ones(1)
        state = read_state_dict(self.save(torch, tmp_path, {"module.a.weight": one, "module.b": one}))
        assert list(state) == ["a.weight", "b"]
        nested = {"g": {"module.a": one}, "d": {"module.a": one, "b": one}, "step": 3, "names": ["x"]}
        assert list(read_state_dict(self.save(torch, tmp_path, nested))) == ["g.a", "d.module.a", "d.b"]

    def test_an_odd_list_of_names_is_left_alone(self, torch, tmp_path: pathlib.Path) -> None:
        state = read_state_dict(self.save(torch, tmp_path, {"module.a": torch.ones(1), "module_b": torch.ones(1)}))
        assert list(state) == ["module.a", "module_b"]

    @pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
    def test_a_payload_is_refused_and_not_run(self, torch, tmp_path: pathlib.Path, form: str) -> None:
        marker, path = tmp_path / "ran", tmp_path / "net.pth"
        content = {"weight": torch.ones(1), "extra": Payload(marker)}
        if form == "pickle":
            path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        with pytest.raises(UserError, match=r"net\.pth: refused"):
            read_state_dict(path)
        assert not marker.exists()
        # The same file does run when it is trusted, so the marker would have told.
        torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
        assert marker.exists()

    @pytest.mark.parametrize("zipped", [True, False])
    def test_options_of_a_script_are_passed_over_but_not_what_they_hold(
        self, torch, tmp_path: pathlib.Path, zipped: bool
    ) -> None:
        marker, form = tmp_path / "ran", {"_use_new_zipfile_serialization": zipped}
        content = {"weight": torch.ones(1), "args": argparse.Namespace(size=8, path="x")}
        assert list(read_state_dict(self.save(torch, tmp_path, content, **form))) == ["weight"]
        content["args"].more = Payload(marker)
        with pytest.raises(UserError, match=r"net\.pth: refused"):
            read_state_dict(self.save(torch, tmp_path, content, **form))
        assert not marker.exists()

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", b"\x89PNG\r\n\x1a\n"])
    def test_damaged_files_are_user_errors(self, torch, tmp_path: pathlib.Path, content: bytes) -> None:
        path = tmp_path / "net.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"net\.pth: (damaged|refused)"):
            read_state_dict(path)

    def test_a_truncated_file_is_a_user_error(self, torch, tmp_path: pathlib.Path) -> None:
        path = self.save(torch, tmp_path, {"weight": torch.ones(1000)})
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(UserError, match=r"net\.pth: (damaged|refused)"):
            read_state_dict(path)

    @pytest.mark.parametrize("content", [{}, {"step": 3}, [1, 2]])
    def test_files_without_tensors_are_user_errors(self, torch, tmp_path: pathlib.Path, content: object) -> None:
        with pytest.raises(UserError, match=r"net\.pth: holds no named tensors"):
            read_state_dict(self.save(torch, tmp_path, content))
