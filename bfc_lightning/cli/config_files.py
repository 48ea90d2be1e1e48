"""Config files, looked at before they are parsed: which file and which line is wrong."""

import itertools
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.runs.folder import RunError


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different.

        Raises:
            ConstructorError: if one stands twice.
        """
        seen: set[str] = set()
        for key, _ in node.value:
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
    """
    for option, file in itertools.pairwise(words):
        if option in ("-c", "--config") and Path(file).exists():
            _check(Path(file))


def _check(path: Path) -> None:
    """Raises what is wrong with a file.

    Raises:
        RunError: if it is no file, no YAML, or no mapping.
    """
    if not path.is_file():
        raise RunError(f"config must be a file, got {path}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.MarkedYAMLError as wrong:
        line = wrong.problem_mark.line + 1 if wrong.problem_mark else 0
        raise RunError(f"config {path}, line {line}: {wrong.problem}.") from wrong
    except (yaml.YAMLError, UnicodeDecodeError) as wrong:
        raise RunError(f"config {path} must be YAML text.") from wrong
    if not isinstance(content, dict):
        raise RunError(f"config {path} must hold keys and values, got {content!r}.")
