"""Arguments before the parser: configs, flags, negative numbers, help, and unknown names."""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from bfc_lightning.private import one_line
from bfc_lightning.runs.config import KnownKeys, Study
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.settings import did_you_mean, find_config, read_yaml

T = TypeVar("T")

CONFIG_OPTIONS = ("-c", "--config")
# What jsonargparse says of a key that it does not know, and of a class that it cannot import.
_UNKNOWN_KEY = re.compile(
    r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'|"
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
_EXAMPLES = ("fit -c quickstart", "baseline -c finite_sample --baseline KernelRidge")
_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def parse(argv: Sequence[str], *, command: str, **kwargs: Any) -> Study:  # noqa: ANN401
    """The settings that the arguments of a command give.

    `--help` prints one screen instead, `--help GROUP` a group, and `--help all` everything.
    """
    study = Study(prog=f"bfc {command}", **kwargs)
    argv = with_configs(argv)
    asked = [number for number, word in enumerate(argv) if word in ("-h", "--help")]
    if asked:
        from bfc_lightning.cli.help import group_help, overview

        following = argv[asked[0] + 1 : asked[0] + 2]
        topic = next((word for word in following if not word.startswith("-")), "")
        text = study.parser.format_help()
        print(group_help(text, topic) if topic else overview(command, text), end="")
        raise SystemExit(0)
    checked(study.parser, argv, study.read)
    return study


def checked(parser: ArgumentParser, argv: Sequence[str], parse: Callable[[list[str]], T]) -> T:
    """Parses arguments; an unknown name is reported with the closest one."""
    names = _Names(parser, argv)
    options = [word[2:].partition("=")[0] for word in argv if word.startswith("--")]
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
        for word in argv
        for part in (word.split("=", 1) if word.startswith(("-c=", "--config=")) else [word])
    ]
    return [
        str(find_config(word)) if before in CONFIG_OPTIONS else word
        for before, word in zip(["", *argv], argv, strict=False)
    ]


def _normalized(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Writes negative numbers as `--key=-1e-3`, and a flag without a value as `--key=true`."""
    found: list[str] = []
    for word, following in zip(argv, [*argv[1:], "-"], strict=False):
        if _NUMBER.fullmatch(word) and found and re.fullmatch("--[^=]+", found[-1]):
            found[-1] = f"{found[-1]}={word}"
        elif word[:2] == "--" and word[2:] in flags and following.startswith("-"):
            found.append(f"{word}=true")
        else:
            found.append(word)
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
            return self._about_key(".".join([*groups, *filter(None, found.groups())]), message)
        found = _UNKNOWN_CLASS.search(message)
        if found and "Expected a <class 'float'>" not in message:
            name = found[1]
            return f"{where}unknown class {name!r}{self.place(name)}.{_closest_class(name)}"
        if found := _STRAY.search(message):
            for word in self._argv:
                if word.startswith("--") and word.endswith(found[1].lstrip("-").partition("=")[0]):
                    return f"Unknown key {word[2:]!r}.{did_you_mean(word[2:], self.all)}"
            return f"Unknown argument {found[1]!r}; configs follow -c, and keys begin with --."
        if found := _REQUIRED.match(message):
            example = _EXAMPLES["baseline" in found[1]]
            return f"{found[1]} must be given, in a config or as --KEY; try: bfc {example}"
        return where + one_line(re.sub(r' *Parser key "[\w.]+":', "", message)).strip()

    def _about_key(self, key: str, message: str) -> str:
        """Says which key of a config, or argument of a class, is unknown."""
        prefix, _, name = key.rpartition(".")
        if name == "class_path":
            return f"{prefix}: the arguments of a class must be below init_args."
        arguments = [each for path in _CLASS.findall(message) for each in _parameters(path)]
        known = [f"{prefix}.{each}" for each in (*arguments, "class_path", "init_args")]
        return f"Unknown key {key!r}{self.place(name)}.{did_you_mean(key, [*known, *self.all])}"

    def place(self, name: str) -> str:
        """` (a.yaml, line 14)` if a config, and no argument, has the name."""
        pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])")
        if any(word.startswith("--") and re.search(rf"\b{name}(=|$)", word) for word in self._argv):
            return ""
        for path in reversed(self.configs):
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            found = [n for n, line in enumerate(lines, start=1) if pattern.search(line)]
            if found:
                return f" ({path}, line {' or '.join(map(str, found))})"
        return ""


def _closest_class(name: str) -> str:
    known = [each for module in _CLASS_MODULES for each in dir(import_module(module))]
    return did_you_mean(name.rpartition(".")[2], [each for each in known if each[0].isupper()])


def _parameters(class_path: str) -> list[str]:
    """The parameters of a class and its bases."""
    kinds = resolve_name(class_path).__mro__[:-1]
    return [name for kind in kinds for name in inspect.signature(kind).parameters]
