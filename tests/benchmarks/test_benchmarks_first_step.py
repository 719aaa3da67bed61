"""Time to the first step: what a process of its own tells, and what is said when it fails."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import cases, first_step


def test_a_line_in_words():
    line = {f"{part}_s": 0.5 for part in first_step.PARTS} | {"total_s": 4.5}
    said = first_step.told(line)
    assert said.startswith("4.5 s: start 0.50, import 0.50, devices 0.50")
    assert said.count(",") == len(first_step.PARTS) - 1


def test_a_process_that_fails_is_quoted(tmp_path):
    case = cases.Case("nothing", cases.SMALL, lambda batch: None, (1,), None)
    with pytest.raises(RuntimeError, match="nothing small b1: ValueError: --systems nothing: unknown"):
        first_step.in_a_fresh_process(case, 1, "float32", str(tmp_path))


def test_lines_go_somewhere(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["first_step"])
    with pytest.raises(SystemExit):
        first_step.main()
    assert "--out: name the file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.ci_slow
def test_the_cache_saves_the_second_process_its_compile(tmp_path, monkeypatch, capsys):
    out = tmp_path / "lines.jsonl"
    arguments = ["first_step", "--systems", "gan", "--sizes", "small", "--batches", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    first_step.main()
    cold, warm = (json.loads(line) for line in out.read_text().splitlines())
    assert (cold["cache"], warm["cache"]) == ("cold", "warm")
    for line in (cold, warm):
        parts = [line[f"{part}_s"] for part in first_step.PARTS]
        assert min(parts) >= 0 and line["total_s"] == pytest.approx(sum(parts), abs=0.01)
        assert line["import_s"] > 0 and line["batch_s"] > 0 and line["trace_s"] > 0
    assert cold["programs"] == warm["programs"] > 1
    assert cold["out_of_cache"] < warm["out_of_cache"] == warm["programs"]
    assert "gan small b2, warm cache" in capsys.readouterr().out
