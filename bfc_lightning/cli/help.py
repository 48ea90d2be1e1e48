"""Help that fits on a screen, made from the parser's own."""

import re

from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.settings import did_you_mean

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
    "inputs": "distribution of x: Gaussian, GaussianMixture, Hypercube, or a class of yours",
    "target": "the function to learn: HierarchicalTarget, PaperTarget, SingleIndex, ...",
    "labels": "Regression (default) or Classification",
    "model": "the learner: width, depth, activation, optimizer, schedule, replicas",
    "data": "batch size, number of samples, shards",
    "scheme": "Joint (default), Progressive, Layerwise, FreezeBelow, PullBelow or Distillation",
    "trainer": "length, validation, precision, devices, loggers, callbacks",
    "run": "name, root, overwrite, figures, threads",
    "baseline": "the method: KernelRidge, RandomFeatures, TwoLayer, ...",
}


def overview(command: str, text: str) -> str:
    """One screen: examples, common options, and one line for each group of settings."""
    found = _options(text)
    apart = (*_GROUPS, "help", "config", "print_config")
    options = "\n".join(v for key, v in found.items() if "." not in key and key not in apart)
    known = {key.partition(".")[0] for key in found}
    groups = "\n".join(f"  {name:<10}{line}" for name, line in _GROUPS.items() if name in known)
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

  bfc {command} --help GROUP            the keys of a group
  bfc {command} --help all              every key
  bfc {command} --target.help CLASS     the arguments of a class, here of a target
"""


def group_help(text: str, topic: str) -> str:
    """The keys of one group, or of all of them."""
    found = _options(text).items()
    mine = [block for key, block in found if topic in ("all", key, key.partition(".")[0])]
    if not mine:
        groups = {key.partition(".")[0] for key, _ in found}
        known = [*(name for name in _GROUPS if name in groups), "all"]
        raise RunError(f"--help takes one of {', '.join(known)}.{did_you_mean(topic, known)}")
    return "\n".join(mine) + "\n"


def _options(text: str) -> dict[str, str]:
    """Each option with its explanation, by its dotted key."""
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if match := re.match(r"  (?:-\w.*)?--([\w.]+)", line):
            key = match[1]
            found[key] = line
        elif key and line.startswith("      "):
            found[key] += f"\n{line}"
    return {key: block for key, block in found.items() if "Path to a conf" not in block}
