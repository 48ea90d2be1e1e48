"""What the rounds say: `bench.json`, `bench.md`, and the same table on the terminal."""

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bfc_lightning.callbacks.environment import versions
from bfc_lightning.experiments.bench.fitting import FitRun
from bfc_lightning.experiments.bench.limit import Limit
from bfc_lightning.experiments.bench.rounds import Name, Times, ratios
from bfc_lightning.experiments.bench.workload import Workload

RESULT, TEXT = "bench.json", "bench.md"

_INCLUDED: dict[Name, str] = {
    "fit": "`bfc fit` in this process with its defaults: logging, bar, TensorBoard, "
    "`metrics.csv`, validation, a checkpoint at every validation. Timed from the end of the first "
    "validation to that of the last: start-up and the first interval are left out, and so are "
    "figures and measures of features (`num_measures: 0`).",
    "fit_plain": "the same with `--training_path plain`: Lightning's own steps, one at a time, "
    "gradients by autograd.",
    "replicas": "`bfc fit` with `--model.num_replicas`, many learners in one process: the time of "
    "a step of all of them, divided by their number.",
    "bare": "an eager PyTorch loop over the same network, target, law of samples, biases, "
    "clipping, schedule and fused Adam. It logs, validates and saves nothing.",
    "compiled": "the same with target, network, loss and their backward pass compiled by "
    "`torch.compile`; compiling is left out.",
    "jax": "the same in JAX, the whole run in one jitted `lax.scan` with donated buffers; "
    "compiling is left out. JAX uses every core that it finds, whatever `run.threads` says.",
    "limit": "the step's matrix products alone, each in its shape by the faster library, with its "
    "factors as that one likes them best, plus drawing x and G(x).",
}
_TITLES = ("contestant", "ms a step, median [min, max]", "samples a second", "fit takes, times")


def machine() -> dict[str, Any]:
    """What the times were taken on: processor, cores, GPU, how busy it was, versions."""
    names = [name for name in ("jax", "jaxlib") if importlib.util.find_spec(name)]
    return {
        "processor": _processor(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "versions": {**versions(), **{name: importlib.metadata.version(name) for name in names}},
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def size_result(workload: Workload, times: Times, *, config: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of one size.

    Args:
        workload: the size.
        times: of its contestants.
        config: every setting of the run.

    Returns:
        Plain data, for `bench.json`.
    """
    timed = times.seconds
    found: dict[str, Any] = {
        name: {
            "seconds_per_step": _spread(seconds),
            "samples_per_second": workload.batch_size / median(seconds),
        }
        for name, seconds in timed.items()
    }
    for name, contestant in times.contestants.items():
        if isinstance(contestant, FitRun):
            found[name]["training_path"] = contestant.training_path
            found[name]["num_replicas"] = contestant.num_replicas
    for name, reason in times.skipped.items():
        found[name] = {"skipped": reason}
    content: dict[str, Any] = {
        "batch_size": workload.batch_size,
        "steps_per_run": workload.num_steps,
        "timed_steps": workload.num_timed,
        "validation_interval": workload.interval,
        "device": workload.device.type,
        "dtype": str(workload.dtype).removeprefix("torch."),
        "threads": workload.threads,
        "contestants": found,
        "fit_takes": {
            name: _spread(ratios(timed["fit"], seconds))
            for name, seconds in timed.items()
            if "fit" in timed and name != "fit"
        },
    }
    limit = times.contestants.get("limit")
    if isinstance(limit, Limit):
        content["matrix_products"] = _products(limit)
    return {**content, "config": dict(config)}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "rounds": list(values),
    }


def _products(limit: Limit) -> dict[str, Any]:
    seconds = _spread(limit.product_seconds)
    return {
        "flops_per_step": limit.flops,
        "flops": {product.what: product.flops for product in limit.products},
        "seconds_per_step": seconds,
        "gigaflops_per_second": limit.flops / seconds["median"] / 1e9,
    }


def table(size: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of one size.

    Args:
        size: from `size_result`.

    Returns:
        Column titles, and a row of cells for each contestant.
    """
    lines = []
    for name, found in size["contestants"].items():
        if "skipped" in found:
            lines.append([name, f"skipped: {found['skipped']}", "-", "-"])
            continue
        ratio = size["fit_takes"].get(name)
        lines.append([
            name,
            _band(found["seconds_per_step"], scale=1e3),
            f"{found['samples_per_second']:,.0f}",
            "-" if ratio is None else _band(ratio),
        ])
    return list(_TITLES), lines


def _band(spread: Mapping[str, Any], scale: float = 1.0) -> str:
    middle, low, high = (_digits(scale * spread[key]) for key in ("median", "min", "max"))
    return f"{middle} [{low}, {high}]"


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def about(name: str, size: Mapping[str, Any]) -> str:
    """What a size is, in one line.

    Args:
        name: of the size.
        size: from `size_result`.

    Returns:
        Its sizes, steps and device; and the rate of its matrix products, where it is known.
    """
    config = size["config"]
    parts = [
        f"{name}: d = {config['inputs']['init_args']['input_dim']}",
        f"m = {config['model']['width']}",
        f"k = {config['target']['init_args']['widths']}",
        f"batch {size['batch_size']}",
        f"{size['timed_steps']} steps a round, a validation every {size['validation_interval']}",
        f"{size['dtype']} on {size['device']}, threads {size['threads']}",
    ]
    if "matrix_products" in size:
        products = size["matrix_products"]
        giga = products["flops_per_step"] / 1e9
        rate = products["gigaflops_per_second"]
        parts.append(f"{giga:.3g} GFLOP a step at {rate:.3g} GFLOP/s")
    return ", ".join(parts)


def as_markdown(content: Mapping[str, Any]) -> str:
    """`bench.md`: each size's table, what the contestants are, and where it was measured.

    Args:
        content: of `bench.json`.

    Returns:
        The text.
    """
    where = content["machine"]
    lines = ["# Step time of `bfc fit`, beside what does the same work", ""]
    lines += [f"    {content['command']}", ""]
    num_rounds = content["rounds"]
    lines += [
        f"{num_rounds} rounds in which the contestants take turns in one process. Times are "
        "medians over the rounds; `fit takes, times` is the median of the rounds' own ratios.",
        "",
    ]
    for name, size in content["sizes"].items():
        titles, rows = table(size)
        lines += [f"## {name}", "", about(name, size), ""]
        lines += [_row(titles), _row(["---"] * len(titles)), *(_row(cells) for cells in rows), ""]
    used = [name for name in _INCLUDED if any(name in s["contestants"] for s in _sizes(content))]
    lines += ["## What is timed", "", *(f"- **{name}**: {_INCLUDED[name]}" for name in used), ""]
    lines += ["## Where", "", *(f"- {key}: {_words(value)}" for key, value in where.items())]
    lines += [f"- commit: {content['git']}", ""]
    return "\n".join(lines)


def _sizes(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(content["sizes"].values())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return "-" if value is None else str(value)
