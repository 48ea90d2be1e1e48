"""Unknown names: each is reported with the closest known one and its line in a config."""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bfc_lightning.cli.errors import one_line
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.yaml_files import did_you_mean

CONFIG_OPTIONS = ("-c", "--config")
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
# What jsonargparse says of a key that it does not know, and of a class that it cannot import.
_UNKNOWN = (
    re.compile(r"unrecognized arguments: --([^\s=]+)"),
    re.compile(r"[Oo]ption '([^']+)' is not accepted"),
    re.compile(r"does not accept option '([^']+)'"),
)
_UNKNOWN_CLASS = (
    re.compile(r"Expected a dot import path string: (\S+)"),
    re.compile(r"Import path (\S+) does not correspond"),
)
_CLASS = re.compile(r"class_path[ =]'([\w.]+)'")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_CLASS_MODULES = (
    *("bfc_lightning", "torch.optim", "torch.optim.lr_scheduler"),
    *("lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
)


class Entry(NamedTuple):
    """A dotted key of a config, its value if that is no mapping or list, and where it is."""

    key: str
    value: str | None
    place: str


def read_entries(argv: Sequence[str]) -> list[Entry]:
    """The entries of all configs; what is no YAML is left to the parser."""
    found: list[Entry] = []
    for option, path in pairwise(argv):
        if option in CONFIG_OPTIONS:
            try:
                node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
                found += _entries(node, "", path)
            except (yaml.YAMLError, ValueError, RecursionError):
                continue
    return found


def _entries(node: yaml.Node | None, prefix: str, path: str) -> Iterator[Entry]:
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(number), value, value) for number, value in enumerate(node.value)]
    else:
        return
    for name, key, value in pairs:
        if name == "<<":  # YAML's merge
            yield from _entries(value, prefix, path)
            continue
        scalar = value.value if isinstance(value, yaml.ScalarNode) else None
        yield Entry(f"{prefix}{name}", scalar, f" ({path}, line {key.start_mark.line + 1})")
        yield from _entries(value, f"{prefix}{name}.", path)


class Names:
    """The names that a command knows; `check` and `explain` report the others."""

    def __init__(self, defaults: Mapping[str, Any], argv: Sequence[str]) -> None:
        self._argv, self._entries = argv, read_entries(argv)
        self._leaves = set(defaults)
        parents = {key.rsplit(".", n)[0] for key in defaults for n in range(1, key.count(".") + 1)}
        self._classes = {key for key in parents if f"{key}.class_path" in defaults}
        top = {"help", "config", "print_config"}
        self._known = sorted(top | parents | {*defaults, *map(_plain, defaults)})

    def check(self) -> None:
        """Refuses the first unknown name; arguments of classes are left to the parser."""
        for word in self._argv:
            if word.startswith("--") and len(word) > 2:
                self._check(word[2:].partition("=")[0].removesuffix("+"), "")
        for entry in self._entries:
            self._check(entry.key, entry.place)
        self._check_classes()

    def _check(self, key: str, place: str) -> None:
        parts = key.split(".")
        above = {".".join(parts[:n]) for n in range(1, len(parts))}
        if key not in self._known and not above & (self._leaves | self._classes):
            self._refuse(key, place, self._known)

    def _check_classes(self) -> None:
        """Refuses keys beside `class_path` and `init_args`."""
        groups = [e.key.rpartition(".") for e in self._entries]
        full = {group for group, _, name in groups if name in _CLASS_KEYS[:2]}
        for entry, (group, _, name) in zip(self._entries, groups, strict=True):
            is_class = group in full and ".init_args" not in group.removesuffix(".init_args")
            if is_class and group and name not in _CLASS_KEYS:
                self._refuse(entry.key, entry.place, [f"{group}.{each}" for each in _CLASS_KEYS])

    def _refuse(self, key: str, place: str, known: Sequence[str]) -> None:
        raise RunError(f"Unknown key {key!r}{place}.{did_you_mean(key, known)}")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns the parser's errors into one line, with the closest name and the place."""
        try:
            yield
        except ArgumentError as error:
            raise RunError(self._explain(str(error))) from error

    def _explain(self, message: str) -> str:
        for pattern in _UNKNOWN:
            if found := pattern.search(message):
                return self._about_key(found[1], message)
        for pattern in _UNKNOWN_CLASS:
            if found := pattern.search(message):
                return self._about_class(found[1], message)
        stray = re.search(r"unrecognized arguments: (\S+)", message)
        if stray:
            return f"Unknown argument {stray[1]!r}; configs follow -c, and keys begin with --."
        return _about_value(message)

    def _about_key(self, key: str, message: str) -> str:
        """Says which argument of a class is unknown, where it is, and which one is close."""
        groups, classes = _KEY.findall(message), _CLASS.findall(message)
        group = re.search(r"Group '([\w.]+)'", message)
        prefix = ".".join(groups) if groups and classes else group[1] if group else ""
        full = f"{prefix}.{key}" if prefix else key
        prefix = prefix or self._group_of(key)
        arguments = [name for each in classes or self._paths(prefix) for name in _names(each)]
        known = [f"{prefix}.{name}" for name in [*arguments, *_CLASS_KEYS[:2]]]
        known += [f"{prefix}.init_args.{name}" for name in arguments if ".init_" in key]
        hint = did_you_mean(full, [*known, *self._known])
        return f"Unknown key {full!r}{self._place(full)}.{hint}"

    def _group_of(self, key: str) -> str:
        """The class that a key is an argument of."""
        parts = key.split(".")
        above = [".".join(parts[:n]) for n in range(1, len(parts))]
        return next((each for each in above if each in self._leaves | self._classes), "")

    def _paths(self, group: str) -> list[str]:
        """The classes that the arguments or configs give for a group."""
        pairs = pairwise(self._argv)
        typed = [value for option, value in pairs if option.strip("-+") == group]
        stored = [e.value for e in self._entries if e.key == f"{group}.class_path"]
        return [_full(name) for name in [*typed, *stored] if name and _full(name)]

    def _about_class(self, name: str, message: str) -> str:
        known = [each for module in _CLASS_MODULES for each in dir(import_module(module))]
        groups = _KEY.findall(message)
        where = f"{'.'.join(groups)}: " if groups else ""
        place = next((e.place for e in self._entries if e.value == name), "")
        hint = did_you_mean(name.rpartition(".")[2], [each for each in known if each[0].isupper()])
        return f"{where}unknown class {name!r}{place}.{hint}"

    def _place(self, key: str) -> str:
        """` (a.yaml, line 14)` if a config, and no argument, has the key."""
        same = [e.place for e in self._entries if _plain(e.key).endswith(_plain(key))]
        typed = any(_plain(word).startswith(f"--{_plain(key)}") for word in self._argv)
        return "" if typed or not same else same[-1]


def _plain(key: str) -> str:
    """A key without `init_args`, which the command line does not need."""
    return key.replace(".init_args.", ".")


def _full(name: str) -> str:
    """The import path of a class that may be named without its module."""
    modules = [module for module in _CLASS_MODULES if hasattr(import_module(module), name)]
    return f"{modules[0]}.{name}" if modules else name if "." in name else ""


def _names(class_path: str) -> list[str]:
    """The parameters of a class and its bases."""
    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
        kinds = [each for each in getattr(kind, "__mro__", [kind]) if each is not object]
        return [name for each in kinds for name in inspect.signature(each).parameters]
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _about_value(message: str) -> str:
    required = "the following arguments are required: "
    if message.startswith(required):
        return (
            f"{message.removeprefix(required)} must be given, in a config (-c FILE) or as --KEY; "
            "try: bfc fit -c quickstart"
        )
    groups = _KEY.findall(message)
    text = one_line(re.sub(r'\s*Parser key "[\w.]+":', " ", message)).strip()
    return f"{'.'.join(groups)}: {text}" if groups else text
