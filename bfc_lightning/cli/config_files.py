"""Config files, looked at before they are parsed: which file and which line is wrong."""

import itertools
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from bfc_lightning.runs.folder import RunError

_MOST_VALUES = 1_000_000
_OPTIONS = ("-c=", "--config=")


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different.

        Raises:
            ConstructorError: if one stands twice, or is no word.
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a word", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def check_config_files(words: Sequence[str]) -> None:
    """Refuses files that are no YAML mapping, naming file, line and what is wrong.

    Args:
        words: the command and its arguments.

    Raises:
        RunError: if one is none.
    """
    for file in _config_words(words):
        if not file:
            raise RunError("config must be a file, got ''.")
        if Path(file).exists():
            _check(Path(file))


def _config_words(words: Sequence[str]) -> list[str]:
    """What is given as a config, as `-c FILE`, `--config=FILE` and so on."""
    apart = [file for option, file in itertools.pairwise(words) if option in ("-c", "--config")]
    joined = [word.partition("=")[2] for word in words if word.startswith(_OPTIONS)]
    return [*apart, *joined]


def check_groups(settings: Namespace, names: Sequence[str]) -> None:
    """Refuses a word or a number in the place of a group of settings, which a parser lets pass.

    Args:
        settings: as they were parsed.
        names: of the groups.

    Raises:
        RunError: if one is no group.
    """
    for name in names:
        if not isinstance(settings[name], Namespace):
            raise RunError(f"{name} must be a mapping of settings, got {settings[name]!r}.")


def _check(path: Path) -> None:
    """Raises what is wrong with a file.

    Raises:
        RunError: if it is no file, no YAML, or no mapping.
    """
    if not path.is_file():
        raise RunError(f"config must be a file, got {path}.")
    try:
        loader = _StrictLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        _check_size(path, root)
        content = None if root is None else loader.construct_document(root)
    except RecursionError as deep:
        raise RunError(f"config {path} must not be nested so deeply, or in itself.") from deep
    except yaml.MarkedYAMLError as wrong:
        line = wrong.problem_mark.line + 1 if wrong.problem_mark else 0
        raise RunError(f"config {path}, line {line}: {wrong.problem}.") from wrong
    except (yaml.YAMLError, ValueError) as wrong:
        raise RunError(f"config {path} must be YAML text.") from wrong
    if not isinstance(content, dict):
        raise RunError(f"config {path} must hold keys and values, got {content!r}.")


def _check_size(path: Path, root: yaml.Node | None) -> None:
    """Refuses a few lines that stand for billions of values, each naming the one before often.

    Raises:
        RunError: if there are too many.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            parts = node.value
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    if root is not None and size(root) > _MOST_VALUES:
        raise RunError(f"config {path} must hold at most {_MOST_VALUES:,} values, got more.")
