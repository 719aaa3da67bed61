"""The report: finished, half-finished and damaged runs; valid, closed and escaped HTML."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.engine.writers import MetricWriter, write_json
from medgen_jax.viz.grids import save_png
from medgen_jax.viz.report import OLDER, THUMBNAIL, write_report

VOID = {"meta", "img", "br"}
METRICS = {"psnr": 20.0, "ssim": 0.5, "steps_to_best": 3}
BASELINES = {"all black": {"psnr": 12.0, "ssim": 0.61}, "scalar mean": {"psnr": 14.0, "ssim": 0.3}}


class Page(HTMLParser):
    """Parses a page and fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.tags, self.words, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.stack.append((tag, dict(attrs).get("class")))

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop()[0] == tag

    def handle_data(self, data):
        inside = [tag for tag, _ in self.stack]
        if "style" not in inside and data.strip():
            self.words.append(data)
            if inside and inside[-1] in ("td", "th"):
                self.rows[-1].append((data, self.stack[-1][1]))

    @property
    def text(self):
        return " | ".join(self.words)

    def images(self):
        return [
            (attrs["alt"], Image.open(io.BytesIO(base64.b64decode(attrs["src"].split(",")[1]))))
            for tag, attrs in self.tags
            if tag == "img"
        ]


def make_run(workdir, steps=100, finished=True, system="pix2pix"):
    environment = {"python": "3.11", "versions": {"jax": "0.10.2"}, "device_kind": "cpu", "device_count": 4}
    config = {"num_train": 16, "model": {"width": 64, "inner": {"norm": "batch"}}, "optim": {"lr": 2e-4, "clip": None}}
    write_json(workdir / "config.json", {"system": system, "config": config, "environment": environment})
    writer = MetricWriter(workdir, tensorboard=False)
    for step in range(10, steps + 1, 10):
        losses = {"g_gan": 1 / step, "d_real": 0.5, "learning_rate": 2e-4, "images_per_second": 3.0}
        writer.write(step, 2 * step, step / 10, "train", losses)
        if step % 50 == 0:
            writer.write(step, 2 * step, step / 10, "val", {"psnr": step / 5, "ssim": 0.5})
            save_png(
                workdir / "samples" / f"step_{step:08d}.png", np.full((30, 40, 3), step % 256, np.uint8), ["synthetic"]
            )
    writer.close()
    if finished:
        results = {"split": "val", "metrics": METRICS, "baselines": BASELINES, "notes": ["one field only"]}
        write_json(workdir / "results.json", results | {"step": steps, "images": 2 * steps, "seconds": 3725.0})
    return workdir


def report(workdir):
    return Page(write_report(workdir).read_text(encoding="utf-8"))


def test_a_finished_run_is_told_in_full(tmp_path):
    page = report(make_run(tmp_path))
    assert (tmp_path / "report" / "index.html").is_file()
    for words in ("pix2pix", "finished", "1 h 02 min", "4 x cpu", "one field only", "inner.norm", "batch", "0.10.2"):
        assert words in page.words, words
    headings = ["Results on the validation set", "Images", "Curves", "Configuration", "Environment"]
    assert [w for w in page.words if w in headings] == headings
    for group in ("Validation", "Training losses", "Learning rate", "Speed"):
        assert group in page.words
    assert sum(tag == "svg" and "aria-label" in attrs for tag, attrs in page.tags) == 6
    assert "Not there yet" not in page.words


def test_the_best_numbers_are_marked(tmp_path):
    """20 dB beats both baselines; an SSIM of .61 beats the model's .5 and is said aloud."""
    page = report(make_run(tmp_path))
    rows = {row[0][0]: row[1:] for row in page.rows if row}
    assert rows["this model"] == [("20.00", "best"), ("0.5000", None), ("3.000", None)]
    assert rows["all black"] == [("12.00", None), ("0.6100", "best"), ("\u2013", None)]
    assert [tag for tag in page.tags if tag[1].get("class") == "model winner"]
    assert "SSIM: the baseline \u201call black\u201d is better than the model" in page.words


def test_many_numbers_get_one_line_each(tmp_path):
    names = [f"fid_{i}" for i in range(9)]
    results = {"metrics": dict.fromkeys(names, 2.0), "baselines": {"real data": dict.fromkeys(names, 1.0)}}
    write_json(make_run(tmp_path) / "results.json", results)
    rows = {row[0][0]: row[1:] for row in report(tmp_path).rows if row}
    assert rows["fid_8 \u2193"] == [("2.000", None), ("1.000", "best")]


def test_images_are_inside_newest_first_and_without_metadata(tmp_path):
    make_run(tmp_path, steps=150)
    images = report(tmp_path).images()
    assert [alt.split(",")[1].strip() for alt, _ in images] == ["Step 150", "Step 50", "Step 100"]
    assert images[0][1].size == (40, 30) and images[0][1].getpixel((5, 5)) == (150, 150, 150)
    assert images[0][1].info == {}


def test_the_strip_is_bounded_and_spans_the_run(tmp_path):
    make_run(tmp_path, steps=50)
    for step in range(100, 3100, 100):
        save_png(tmp_path / "samples" / f"step_{step:08d}.png", np.zeros((20, 900), np.uint8))
    images = report(tmp_path).images()
    assert len(images) == 1 + OLDER
    assert "Step 3000" in images[0][0] and "Step 50" in images[1][0] and "Step 2900" in images[-1][0]
    assert images[0][1].width == 900 and images[-1][1].width == THUMBNAIL


def test_two_grids_of_one_step_are_both_large(tmp_path):
    make_run(tmp_path, steps=50)
    for name in ("a2b", "b2a"):
        save_png(tmp_path / "samples" / f"step_00000060_{name}.png", np.zeros((20, 900), np.uint8))
    assert [image.width for _, image in report(tmp_path).images()] == [900, 900, 40]


def test_a_run_that_has_just_begun_names_what_is_missing(tmp_path):
    page = report(tmp_path)
    for name in ("config.json", "metrics.jsonl", "results.json", "samples/"):
        assert any(words.startswith(f"{name}: ") for words in page.words), name
    assert "not finished" in page.words and "Curves" not in page.words


def test_a_half_finished_and_damaged_run_is_still_told(tmp_path):
    make_run(tmp_path, finished=False)
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write(
            'not json\n[1]\n{"step": "x"}\n'
            '{"step": 110, "split": "train", "g_gan": null, "skipped_steps": 2}\n'
            '{"step": 120, "g'
        )
    (tmp_path / "samples" / "step_00000120.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "config.json").write_text('{"system": ')
    page = report(tmp_path)
    for words in (
        "metrics.jsonl: the last line was cut off and is left out",
        "metrics.jsonl: 3 damaged lines left out",
        "train g_gan: not finite once, first at step 110",
        "2 training steps skipped because the update was not finite",
        "samples/step_00000120.png: damaged and left out",
        "config.json: damaged and left out; the configuration is unknown",
        "unknown system",
    ):
        assert words in page.words, words
    wanted = ["Step 100, samples/step_00000100.png", "Step 50"]
    assert [alt for alt, _ in page.images()] == [f"Grid of sample images, {text}" for text in wanted]
    assert "110" in page.words


@pytest.mark.parametrize(
    "content", ["[]", "null", '{"metrics": 3, "baselines": [], "notes": "x"}', '{"metrics": {"fid": null}}']
)
def test_results_of_an_unexpected_form_do_no_harm(tmp_path, content):
    (make_run(tmp_path) / "results.json").write_text(content)
    assert "Curves" in report(tmp_path).words


def test_everything_is_escaped_and_nothing_is_loaded(tmp_path):
    evil = "<script>alert('x')</script>\"&"
    make_run(tmp_path, system=evil)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"][evil] = {evil: evil}
    config["environment"][evil] = evil
    write_json(tmp_path / "config.json", config)
    results = {"split": evil, "metrics": {evil: 1.0}, "baselines": {evil: {evil: 2.0}}, "notes": [evil]}
    write_json(tmp_path / "results.json", results)
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write(json.dumps({"step": 200, "split": evil, evil: 1.0, f"{evil} psnr": None}) + "\n")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert evil in page.words
    assert f"{evil} over optimiser steps" in [attrs.get("aria-label") for _, attrs in page.tags]
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form", "a"}
    assert all(attrs["src"].startswith("data:image/") for _, attrs in page.tags if "src" in attrs)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy[0].startswith("default-src 'none'")


def test_the_page_is_replaced_whole(tmp_path):
    make_run(tmp_path, steps=50)
    write_report(tmp_path)
    assert [p.name for p in write_report(tmp_path).parent.iterdir()] == ["index.html"]


def test_a_wrong_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="absent: is no directory"):
        write_report(tmp_path / "absent")
    make_run(tmp_path, steps=50)
    (tmp_path / "report").write_text("a file")
    with pytest.raises(UserError, match=r"report/index\.html: cannot be written"):
        write_report(tmp_path)
