"""The table of the papers: hours, operations and ratios by hand."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import cases, papers
from benchmarks import lines as files

LINE = {
    "benchmark": "run", "system": "pix2pix", "size": "paper", "what": "train", "form": "jax", "batch": 4,
    "dtype": "bfloat16", "images_per_s": 100.0, "ms_p50": 40.0, "gflop": 348.0, "matrix_tflops": 0.5,
    "share_of_matrix_rate": 0.31, "memory_mb": 2048.0,
    "device": "NVIDIA H200", "date": "2026-11-22", "versions": {"jax": "0.11.2", "torch": "2.11.0"},
}  # fmt: skip
TORCH = {k: v for k, v in LINE.items() if k not in ("gflop", "dtype", "memory_mb")} | {"form": "eager nchw float32"}


def paper(name):
    return next(one for one in cases.PAPERS if one.case == name)


def test_a_row_by_hand():
    slower = {**LINE, "batch": 1, "images_per_s": 50.0}
    head, rule, first, *rest = papers.table([slower, LINE, {**LINE, "size": "small", "images_per_s": 999.0}])
    assert len(head.split("|")) == len(rule.split("|")) == len(first.split("|"))
    assert all(len(one.split("|")) == len(head.split("|")) for one in rest)
    # 1,141 x 500 images of 87 GFLOP; 100 of them a second; 0.5 TFLOP/s.
    assert "| 0.0496 | 4, bfloat16 | 100 | 1.58 | 27.6 | 31% |  | 2.00 |" in first
    assert all("not measured" in one for one in rest)


@pytest.mark.parametrize(
    ("name", "gflop", "total", "hours"),
    [
        ("pix2pix", 86.9, 0.050, 0.035),
        ("cyclegan", 1879, 22.8, 16.0),
        ("stargan_v2", 2847, 9.7, 6.8),
        ("diffusion", 1700, 1.02, 0.72),
        ("stylegan2", 403, 1.37, 0.96),
    ],
)
def test_totals_of_the_papers_runs(name, gflop, total, hours):
    """EFLOP of the whole run and its hours at 395 TFLOP/s, from operations of one image as PyTorch counts them."""
    line = {"gflop": 8 * gflop, "batch": 8, "matrix_tflops": 395.0}
    assert papers.exaflop(paper(name), line) == pytest.approx(total, rel=0.02)
    assert papers.hours_at_limit(paper(name), line) == pytest.approx(hours, rel=0.02)


def test_forms_of_one_process_keep_their_ratio_and_others_are_joined():
    quick = {**TORCH, "form": "compiled nchw bfloat16", "ms_p50": 30.0}
    apart = {**quick, "device": "another", "ms_p50": 1.0}
    broken = {k: v for k, v in quick.items() if k != "ms_p50"} | {"form": "eager", "failed": "no memory"}
    assert papers.against(LINE, [LINE, TORCH, quick, apart, broken]) == (0.75, "compiled nchw bfloat16")
    assert papers.against({**LINE, "times_faster": 1.25, "best_partner": "x"}, [quick]) == (1.25, "x")
    assert papers.against(LINE, [LINE, apart]) is None
    # Regularisers that the other form leaves out do not count against ours.
    lazy = {**LINE, "variants": {"plain": {"ms_p50": 20.0}, "r1": {"ms_p50": 80.0}}}
    assert papers.against(lazy, [quick])[0] == 1.5


def test_a_form_that_failed_is_not_ours():
    assert papers.fastest([{**LINE, "failed": "no memory"}], paper("pix2pix")) is None


def test_reconstructions_have_rates_but_no_matrix_products():
    stack = {**LINE, "benchmark": "fpm", "system": "fpm", "what": "reconstruct", "batch": 1, "images_per_s": 0.5}
    stack = {k: v for k, v in stack.items() if k not in ("gflop", "dtype", "memory_mb")}
    (row,) = [line for line in papers.table([stack]) if line.startswith("| fpm")]
    assert "| 1,141 x 1 |  | 1 | 0.5 | 0.634 |  |  |  |  |" in row


def test_the_dated_file(tmp_path, monkeypatch, capsys):
    source = tmp_path / "lines.jsonl"
    for line in (LINE, {**LINE, "benchmark": "input"}):
        files.append(source, line)
    monkeypatch.setattr(sys, "argv", ["papers", "--lines", str(source), "--out", str(tmp_path / "results")])
    papers.main()
    (written,) = (tmp_path / "results").iterdir()
    assert written.name == "2026-11-22-papers-nvidia-h200.md"
    assert capsys.readouterr().out.strip() == str(written)
    text = written.read_text()
    assert "2026-11-22: NVIDIA H200; jax 0.11.2, torch 2.11.0." in text and str(tmp_path) not in text


def test_files_without_measurements_are_refused(tmp_path, monkeypatch, capsys):
    source = tmp_path / "lines.jsonl"
    source.write_text(json.dumps({"benchmark": "stain"}) + "\n")
    monkeypatch.setattr(sys, "argv", ["papers", "--lines", str(source)])
    with pytest.raises(SystemExit):
        papers.main()
    assert "holds nothing that benchmarks.run or benchmarks.fpm measured" in capsys.readouterr().err
    source.write_text('{"benchmark": "run"}\n{"bench')
    with pytest.raises(ValueError, match=r"lines\.jsonl, line 2: is no JSON"):
        files.read([source])
