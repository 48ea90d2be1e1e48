"""Help that fits on a screen, made from the parser's own."""

import re

from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.yaml_files import did_you_mean

_EXAMPLES = {
    "fit": """\
  bfc fit -c quickstart                             train a shipped config
  bfc fit -c quickstart --model.width 128           change any key
  bfc fit -c quickstart -c mine.yaml                later configs override earlier ones
  bfc fit -c logs/quickstart/config.yaml --resume auto       continue a run""",
    "validate": "  bfc validate -c logs/quickstart/config.yaml --ckpt_path last",
    "test": "  bfc test -c logs/quickstart/config.yaml",
    "predict": "  bfc predict -c logs/quickstart/config.yaml",
    "baseline": "  bfc baseline -c finite_sample --baseline KernelRidge --baseline.ridge 1e-4",
}
_DESCRIPTIONS = {
    "fit": "Train a learner on a hierarchical target.",
    "validate": "Score a checkpoint on the validation samples; writes validate.json.",
    "test": "Score a checkpoint on samples that training never uses; writes test.json.",
    "predict": "Write inputs, targets and predictions to predictions.npz.",
    "baseline": "Fit a method without a Trainer on the problem of a config.",
}
_GROUPS = {
    "inputs": "distribution of x: Gaussian, GaussianMixture, or a class of yours",
    "target": "the function to learn: HierarchicalTarget, SingleIndex, Sight, ...",
    "labels": "Regression (default) or Classification",
    "model": "the learner: width, depth, activation, optimizer, schedule, replicas",
    "data": "batch size, number of samples, shards",
    "scheme": "Joint (default), Progressive or Layerwise training",
    "trainer": "length, validation, precision, devices, loggers, callbacks",
    "run": "name, root, overwrite, figures, threads",
    "baseline": "the method: KernelRidge, RandomFeatures, TwoLayer, ...",
}
_CLASSES = ("inputs", "target", "labels", "scheme", "baseline")


def overview(command: str, text: str) -> str:
    """One screen: examples, common options, and one line for each group of settings."""
    blocks = _blocks(text)
    apart = (*_GROUPS, "help", "config", "print_config")
    plain = [block for block in blocks if "." not in _name(block) and _name(block) not in apart]
    options = "\n".join(plain)
    groups = "\n".join(
        f"  {name:<10}{line}"
        for name, line in _GROUPS.items()
        if any(_name(block).split(".")[0] == name for block in blocks)
    )
    return f"""\
usage: bfc {command} -c CONFIG [-c CONFIG ...] [--KEY VALUE ...]

{_DESCRIPTIONS[command]}

examples:
{_EXAMPLES[command]}

options:
  -c CONFIG             A file, or the name of a shipped config (bfc init DIR copies them).
{options}
  --print_config        Print every setting as YAML and exit.

groups of settings, --GROUP.KEY VALUE:
{groups}

  bfc {command} --help GROUP      the keys of a group
  bfc {command} --help all        every key
"""


def group_help(text: str, topic: str) -> str:
    """The keys of one group, or of all of them."""
    mine = [block for block in _blocks(text) if _is_in(_name(block), topic)]
    if not mine:
        known = [*_GROUPS, "all"]
        raise RunError(f"--help takes one of {', '.join(known)}.{did_you_mean(topic, known)}")
    hint = ""
    if topic in _CLASSES:
        hint = f"\nArguments of a class: --{topic}.help CLASS, e.g. `--{topic}.help Gaussian`.\n"
    return "\n".join(mine) + f"\n{hint}"


def _is_in(key: str, topic: str) -> bool:
    return topic in ("all", key, key.partition(".")[0])


def _blocks(text: str) -> list[str]:
    """Each option with its explanation."""
    found: list[str] = []
    for line in text.splitlines():
        if re.match(r"  (-\w, )?--?\w", line):
            found.append(line)
        elif found and line.startswith("      "):
            found[-1] += f"\n{line}"
    return [
        block for block in found if not re.match(r"  --[\w.]+ CONFIG\n? *Path to a conf", block)
    ]


def _name(block: str) -> str:
    """The dotted key of an option."""
    match = re.search(r"--([\w.]+)", block)
    return match[1] if match else ""
