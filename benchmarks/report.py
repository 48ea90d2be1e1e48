"""The results of the benchmark: the content of `bench.json` and the tables of `bench.md`."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.limit import Limit
from benchmarks.workload import Workload

CONTESTANTS = {
    "fit": "`bfc fit --engine compiled` with logging, progress bar, validations and checkpoints.",
    "fit_eager": "the same, eagerly (`--engine eager`).",
    "fit_autograd": "the same with Lightning's own loop and autograd (`--engine autograd`).",
    "replicas": "`bfc fit` with 16 replicas in one process, per step of one replica.",
    "bare": "an eager PyTorch loop that logs, validates and saves nothing.",
    "compiled": "the same loop, compiled by `torch.compile`; compile time is left out.",
    "jax": "the whole run in one jitted `lax.scan` of JAX; compile time is left out.",
    "jax_replicas": "16 replicas in JAX by `jax.vmap`, per step of one replica.",
    "limit": "the matrix products of a step alone, plus drawing the batch.",
}
_TABLE = """\
| contestant | ms per step, median [min, max] | samples per second | fit / contestant |
|---|---|---|---|"""


def machine() -> dict[str, Any]:
    """Processor, GPU, load average, versions and commit."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    describe = ["git", "describe", "--always", "--dirty"]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads of PyTorch": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load average before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "jax") if find_spec(name)},
        "commit": subprocess.run(describe, capture_output=True, text=True).stdout.strip(),
    }


def size_result(
    workload: Workload, seconds: Mapping[str, Sequence[float]], limit: Limit | None
) -> dict[str, Any]:
    """The result of one size, given the seconds per step of each contestant in each round."""
    contestants: dict[str, Any] = {}
    for name, rounds in seconds.items():
        contestants[name] = {
            "seconds_per_step": _spread(rounds),
            "samples_per_second": workload.data.batch_size / median(rounds),
        }
        if "fit" in seconds:
            pairs = zip(seconds["fit"], rounds, strict=True)
            contestants[name]["fit_ratio"] = _spread([fit / own for fit, own in pairs])
    config = yaml.safe_load(workload.path.read_text(encoding="utf-8"))
    content = {"config": config, "timed_steps": workload.num_timed, "contestants": contestants}
    if limit is not None:
        rate = limit.flops / median(limit.matmul_seconds)
        content |= {"flops_per_step": limit.flops, "matmul_flops_per_second": rate}
    return content


def _spread(rounds: Sequence[float]) -> dict[str, Any]:
    edges = {"min": min(rounds), "max": max(rounds)}
    return {"median": median(rounds), **edges, "rounds": list(rounds)}


def size_markdown(name: str, size: Mapping[str, Any]) -> str:
    """The table of one size."""
    config = size["config"]
    text = (
        f"{name}: d = {config['inputs']['init_args']['input_dim']}, m = {config['model']['width']},"
        f" batch size {config['data']['batch_size']}, {size['timed_steps']} timed steps per round"
    )
    if "flops_per_step" in size:
        rate = size["matmul_flops_per_second"] / 1e9
        text += f", {size['flops_per_step'] / 1e9:.3g} GFLOP per step at {rate:.3g} GFLOP/s"
    lines = [text, "", _TABLE]
    for contestant, found in size["contestants"].items():
        times = _cell(found["seconds_per_step"], unit=1e-3)
        ratio = _cell(found["fit_ratio"]) if "fit_ratio" in found else "-"
        lines.append(f"| {contestant} | {times} | {found['samples_per_second']:,.0f} | {ratio} |")
    return "\n".join(lines)


def _cell(spread: Mapping[str, Any], unit: float = 1.0) -> str:
    values = [spread[key] / unit for key in ("median", "min", "max")]
    middle, low, high = (f"{value:.3g}" if value < 100 else f"{value:,.0f}" for value in values)
    return f"{middle} [{low}, {high}]"


def as_markdown(content: Mapping[str, Any]) -> str:
    """The content of `bench.md`."""
    used = {name for size in content["sizes"].values() for name in size["contestants"]}
    tables = [size_markdown(name, size) for name, size in content["sizes"].items()]
    about = [f"- {name}: {text}" for name, text in CONTESTANTS.items() if name in used]
    where = [f"- {key}: {value}" for key, value in content["machine"].items()]
    note = (
        f"The contestants alternate for {content['rounds']} rounds in one process. Start-up and "
        "the steps before the first validation are not timed. `fit / contestant` is the median of "
        "the ratios within each round."
    )
    parts = ["# Time of a training step", f"    {content['command']}", note, *tables]
    parts += ["## Contestants", "\n".join(about), "## Machine", "\n".join(where)]
    return "\n\n".join(parts) + "\n"
