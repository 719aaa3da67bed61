"""Speed of training steps and samplers, beside PyTorch and beside the machine's limits: one JSON line per measurement.

    python -m benchmarks.run --systems all --sizes small paper --out results.jsonl

Ours and every variant of PyTorch's take turns within each round, in one process, which on a CPU keeps freed memory
(`medgen_jax.engine.heap`) for both, as commands do. A line of ours holds seconds to trace and to compile (cold, and out
of the compile cache), median and 90th percentile of a call, images per second, memory, operations (counted from the
traced program) and bytes (as XLA counts them), their rates as shares of the matrix products and copies that the machine
managed just before, and how many times as long the fastest variant of PyTorch takes. Lines are appended as they come.
On an accelerator, where nothing else runs, forms are made, measured and let go one after the other instead, since its
memory does not hold all of them. What does not run, for want of memory say, gets a line with the reason. ``--input``
adds the lines of `benchmarks.input_pipeline`.

A step with several variants (lazy regularisers) is measured in each: the line is the mean, each weighed by how often
it runs, and holds them all under ``variants``. PyTorch's side does what the first one does and is compared with it.
"""

from __future__ import annotations

import argparse
import functools
import gc
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from benchmarks import cases, machine, ours
from benchmarks import lines as files
from benchmarks.cases import Case
from benchmarks.timing import Form, Seconds, in_turns, mean, significant, summary

OURS = "jax"
#: Makes a form ready to run.
Maker = Callable[[], Form]
#: What is measured -> function of a partner.
PROGRAMS = {"train": "train_step", "sample": "sampler"}


def lines(
    case: Case, batch: int, what: str, given: argparse.Namespace, limits: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """Measure one program of a case at one batch size, with its partners."""
    device = jax.devices()[0]
    common = {"benchmark": "run", "system": case.name, "size": case.size, "what": what}
    common |= {"batch": batch, "rounds": given.rounds}
    shares = ours.shares(case.configure(batch), given.dtype) if what == "train" else {what: 1.0}
    names = {variant: f"{OURS} {variant}" if len(shares) > 1 else OURS for variant in shares}
    numbers: dict[str, dict[str, float]] = {}

    def make_ours(variant: str) -> Form:
        config = case.configure(batch)
        if what == "train":
            measured = ours.train_step(config, given.dtype, device, variant)
        else:
            measured = ours.sampler(config, case.sampler, given.dtype, batch, device)
        measured.form()
        numbers[variant] = measured.numbers | {"recompilations": ours.recompilations(measured.form, 1)}
        return measured.form

    # Ours comes last: what jax has once taken of an accelerator's memory it keeps.
    makers = partners(case, batch, given, device.platform, PROGRAMS[what])
    makers |= {name: functools.partial(make_ours, variant) for variant, name in names.items()}
    variant_of = {name: variant for variant, name in names.items()}
    seconds: dict[str, Seconds] = {}
    own: dict[str, Seconds] = {}
    for name, found in measure(makers, given, device.platform):
        if isinstance(found, str):
            yield {**common, "form": name, "failed": found, **machine.facts(device)}
        elif name in variant_of:
            own[variant_of[name]] = found
        else:
            seconds[name] = found
            yield {**common, **timed(name, found, batch), **machine.facts(device)}
    if set(own) == set(shares):
        spent, whole = mean(own, shares), ours.weighted(numbers, shares)
        rate = whole["gflop"] / 1e3 / _median(spent)
        line = {**common, **timed(OURS, spent, batch), "dtype": given.dtype, **whole, **limits}
        line |= {"tflops": significant(rate), "share_of_matrix_rate": significant(rate / limits["matrix_tflops"])}
        line["share_of_copy_rate"] = significant(whole["traffic_gb"] / _median(spent) / limits["copy_gbs"])
        if len(own) > 1:
            line["variants"] = {v: {"share": shares[v], **summary(own[v]), **numbers[v]} for v in own}
        yield {**line, **beside(seconds, own[next(iter(shares))]), **machine.facts(device)}


def timed(name: str, seconds: Seconds, batch: int) -> dict[str, Any]:
    """What the seconds of a form say."""
    return {"form": name, **summary(seconds), "images_per_s": significant(batch / _median(seconds))}


def beside(others: Mapping[str, Seconds], own: Seconds) -> dict[str, Any]:
    """Which of the others is the fastest, and how many times as long it takes; nothing where there is none."""
    if not others:
        return {}
    best = min(others, key=lambda name: _median(others[name]))
    return {"best_partner": best, "times_faster": significant(_median(others[best]) / _median(own))}


def measure(
    makers: Mapping[str, Maker], given: argparse.Namespace, platform: str
) -> Iterator[tuple[str, Seconds | str]]:
    """The seconds of each form that runs, or why it does not, as soon as that is known.

    Args:
      makers: form by name.
      given: the options ``forms`` and ``rounds``.
      platform: on ``cpu`` all forms are kept and take turns; elsewhere one is let go before the next is made.
    """
    wanted = [name for name in makers if re.search(given.forms, name)]
    for names in [wanted] if platform == "cpu" else [[name] for name in wanted]:
        tried = {name: _tried(makers[name]) for name in names}
        yield from ((name, found) for name, found in tried.items() if isinstance(found, str))
        forms = {name: found for name, found in tried.items() if not isinstance(found, str)}
        yield from in_turns(forms, given.rounds).items()
        tried.clear()
        forms.clear()
        _free()


def _tried(maker: Maker) -> Form | str:
    """The form, once it has run, or why it does not."""
    try:
        form = maker()
        form()
        return form
    except Exception as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0][:200]}"


def _free() -> None:
    """Hand back what PyTorch keeps of an accelerator's memory."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.compiler.reset()
        torch.cuda.empty_cache()


def partners(
    case: Case, batch: int, given: argparse.Namespace, platform: str, program: str, **options: Any
) -> dict[str, Maker]:
    """PyTorch's variants of a program of a case's partner; none where there is none, or no PyTorch.

    Args:
      case, batch: what is measured.
      given: the option ``compiled``.
      platform: of jax.
      program, **options: see `benchmarks.partners.variants.makers`.
    """
    if case.partner is None or given.forms == OURS:
        return {}
    try:
        from benchmarks.partners import variants
    except ImportError:
        print("PyTorch is not installed: its side is left out", file=sys.stderr)
        return {}
    place = "cpu" if platform == "cpu" else "cuda"
    asked = (case.partner, lambda: case.configure(batch), batch, place, program, given.compiled)
    return variants.makers(*asked, **options)


def _median(seconds: Seconds) -> float:
    return summary(seconds)["ms_p50"] / 1e3


def told(line: Mapping[str, Any]) -> str:
    """A line in words."""
    if "failed" in line:
        return f"does not run: {line['failed']}"
    faster = f", {line['times_faster']} x {line['best_partner']}" if "times_faster" in line else ""
    return f"{line['ms_p50']:.1f} ms, {line['images_per_s']} images/s{faster}"


def measured(chosen: Iterable[Case], given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of cases at their batch sizes, told as they come."""
    limits = machine.limits(jax.devices()[0], given.dtype)
    for case in chosen:
        for batch in given.batches or case.batches:
            for what in given.what:
                for line in lines(case, batch, what, given, limits):
                    print(f"{case.name} {case.size} {what} b{batch} {line['form']}: {told(line)}", flush=True)
                    yield line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which forms are measured."""
    parser.add_argument("--forms", default="", help="pattern in their names, such as 'jax' or 'jax|channels_last'")
    parser.add_argument("--compiled", action="store_true", help="on a CPU, compiled PyTorch as well")


def main() -> None:
    """Measure what is asked for, case by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases.add_options(parser)
    parser.add_argument("--what", nargs="+", default=["train", "sample"], choices=["train", "sample"])
    parser.add_argument("--rounds", type=int, default=10)
    add_options(parser)
    parser.add_argument("--input", action="store_true", help="the input pipeline as well")
    given = parser.parse_args()
    chosen = cases.chosen(tuple(given.systems), tuple(given.sizes))
    for line in measured(chosen, given):
        files.append(given.out, line)
    if given.input:
        from benchmarks import input_pipeline

        for line in input_pipeline.measured(chosen, input_pipeline.beside_others(given)):
            files.append(given.out, line)


if __name__ == "__main__":
    main()
