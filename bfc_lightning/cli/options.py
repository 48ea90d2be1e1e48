"""The options of a command: configs, flags, negative numbers, help, and unknown names."""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from bfc_lightning.baselines import Baseline
from bfc_lightning.private import one_line
from bfc_lightning.runs.config import KnownKeys, Study
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.settings import did_you_mean, find_config, read_yaml

T = TypeVar("T")

CONFIG_OPTIONS = ("-c", "--config")
_RESUME = "`auto` continues from the run's last checkpoint, if there is one; or a PATH."
_CHECKPOINT = "`best` or `last` of the run, or a PATH."
_EVALUATION = {"ckpt_path": {"type": str, "default": "best", "help": _CHECKPOINT}}
STUDIES: dict[str, dict[str, Any]] = {
    "fit": {"options": {"resume": {"type": str | None, "default": None, "help": _RESUME}}},
    **{name: {"options": _EVALUATION} for name in ("validate", "test", "predict")},
    "baseline": {"extra": {"baseline": Baseline}},
}
"""What a command that takes the settings of a run adds to them."""

# What jsonargparse says of a key that it does not know, and of a class that it cannot import.
_UNKNOWN_KEY = re.compile(
    r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'|"
    r"unrecognized arguments: --([\w.]+)|"
    r"(?s:(?:Not a valid subclass|is abstract).*Given value: \{(?:'class_path': '[^']*', )?"
    r"'(?!class_path|init_args|dict_kwargs)(\w+)')"
)
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_STRAY = re.compile(r"unrecognized arguments: (\S+)")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_CLASS = re.compile(r"class_path[ =]'([\w.]+)'")
_GROUP = re.compile(r"(?:Parser key \"|Group ')([\w.]+)")
_CLASS_MODULES = (
    *("bfc_lightning", "torch.optim", "torch.optim.lr_scheduler"),
    *("lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
)
_COMPLETE = ("fit -c quickstart", "baseline -c finite_sample --baseline KernelRidge")
_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

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


def parse(argv: Sequence[str], *, command: str) -> Study:
    """The settings that the arguments of a command give.

    `--help` prints one screen instead, `--help GROUP` a group, and `--help all` everything.
    """
    study = Study(prog=f"bfc {command}", **STUDIES[command])
    argv = with_configs(argv)
    for option, topic in pairwise([*argv, "-"]):
        if option in ("-h", "--help"):
            blocks = _help_blocks(study.parser.format_help())
            is_topic = not topic.startswith("-")
            print(_group_help(topic, blocks) if is_topic else _overview(command, blocks), end="")
            raise SystemExit(0)
    checked(study.parser, argv, study.read)
    return study


def checked(parser: ArgumentParser, argv: Sequence[str], parse: Callable[[list[str]], T]) -> T:
    """Parses arguments; an unknown name is reported with the closest one."""
    names = _Names(parser, argv)
    options = [each[2:].partition("=")[0] for each in argv if each.startswith("--")]
    names.check([option.removesuffix("+") for option in options])
    for path in names.configs:
        content = read_yaml(Path(path))
        if "base" in content and "base" not in names.all:
            raise RunError(f"{path} is an experiment; try: bfc compare -c {path}")
        names.check_tree(content, names.place)
    try:
        return parse(_normalized(argv, names.flags))
    except ArgumentError as error:
        raise RunError(names.explain(str(error))) from error


def with_configs(argv: Sequence[str]) -> list[str]:
    """The arguments with every config as the path of a file that exists."""
    argv = [
        part
        for each in argv
        for part in (each.split("=", 1) if each.startswith(("-c=", "--config=")) else [each])
    ]
    return [
        str(find_config(each)) if before in CONFIG_OPTIONS else each
        for before, each in pairwise(["", *argv])
    ]


def _normalized(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Writes negative numbers as `--key=-1e-3`, and a flag without a value as `--key=true`."""
    found: list[str] = []
    for each, following in pairwise([*argv, "-"]):
        if _NUMBER.fullmatch(each) and found and re.fullmatch("--[^=]+", found[-1]):
            found[-1] = f"{found[-1]}={each}"
        elif each[:2] == "--" and each[2:] in flags and following.startswith("-"):
            found.append(f"{each}=true")
        else:
            found.append(each)
    return found


class _Names(KnownKeys):
    """The names that a command knows; `explain` reports those that its parser refuses."""

    def __init__(self, parser: ArgumentParser, argv: Sequence[str]) -> None:
        super().__init__(parser)
        self._argv = argv
        self.configs = [path for option, path in pairwise(argv) if option in CONFIG_OPTIONS]

    def explain(self, message: str) -> str:
        """An error of the parser in one line, with the closest name and the place."""
        groups = list(dict.fromkeys(_GROUP.findall(message)))
        where = f"{'.'.join(groups)}: " if groups else ""
        if found := _UNKNOWN_KEY.search(message):
            return self._about_key(groups, next(filter(None, found.groups())), message)
        found = _UNKNOWN_CLASS.search(message)
        if found and "Expected a <class 'float'>" not in message:
            known = [name for module in _CLASS_MODULES for name in dir(import_module(module))]
            classes = [name for name in known if name[0].isupper()]
            close = did_you_mean(found[1].rpartition(".")[2], classes)
            return f"{where}unknown class {found[1]!r}{self.place(found[1])}.{close}"
        if found := _STRAY.search(message):
            return f"Unknown argument {found[1]!r}; configs follow -c, and keys begin with --."
        if found := _REQUIRED.match(message):
            example = _COMPLETE["baseline" in found[1]]
            return f"{found[1]} must be given, in a config or as --KEY; try: bfc {example}"
        return where + one_line(re.sub(r' *Parser key "[\w.]+":', "", message)).strip()

    def _about_key(self, groups: Sequence[str], name: str, message: str) -> str:
        """Says which key of a config, or argument of a class, is unknown."""
        prefix, key = ".".join(groups), ".".join([*groups, name])
        if name == "class_path":
            return f"{prefix}: the arguments of a class must be below init_args."
        bases = [base for path in _CLASS.findall(message) for base in resolve_name(path).__mro__]
        arguments = [each for base in bases for each in inspect.signature(base).parameters]
        known = [f"{prefix}.{each}" for each in (*arguments, "class_path", "init_args")]
        return f"Unknown key {key!r}{self.place(name)}.{did_you_mean(key, [*known, *self.all])}"

    def place(self, name: str) -> str:
        """` (a.yaml, line 14)` if a config, and no argument, has the name."""
        pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])")
        if any(each.startswith("--") and re.search(rf"\b{name}(=|$)", each) for each in self._argv):
            return ""
        for path in reversed(self.configs):
            lines = enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1)
            if found := [str(number) for number, line in lines if pattern.search(line)]:
                return f" ({path}, line {' or '.join(found)})"
        return ""


def _help_blocks(text: str) -> dict[str, str]:
    """The options in a parser's help, each with its explanation, by their dotted keys."""
    found = re.finditer(r"^  (?:-\w.*)?--([\w.]+).*(?:\n {6}.*)*", text, flags=re.MULTILINE)
    return {match[1]: match[0] for match in found if "Path to a conf" not in match[0]}


def _overview(command: str, blocks: Mapping[str, str]) -> str:
    """One screen: examples, common options, and one line for each group of settings."""
    apart = (*_GROUPS, "help", "config", "print_config")
    options = "\n".join(v for key, v in blocks.items() if "." not in key and key not in apart)
    known = {key.partition(".")[0] for key in blocks}
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


def _group_help(topic: str, blocks: Mapping[str, str]) -> str:
    """The keys of one group, or of all of them."""
    groups = {key: key.partition(".")[0] for key in blocks}
    mine = [blocks[key] for key in blocks if topic in ("all", key, groups[key])]
    if not mine:
        known = [*(name for name in _GROUPS if name in groups.values()), "all"]
        raise RunError(f"--help takes one of {', '.join(known)}.{did_you_mean(topic, known)}")
    return "\n".join(mine) + "\n"
