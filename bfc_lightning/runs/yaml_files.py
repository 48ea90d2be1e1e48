"""YAML files: found among the shipped ones, read strictly, and written so that they read back."""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.runs.folder import RunError

_LOOKS_LIKE_A_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?")


class _TextKeys(yaml.SafeLoader):
    """YAML's safe loader with every key as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys must be different."""
        self.flatten_mapping(node)
        found: dict[Any, Any] = {}
        for key, value in node.value:
            if str(key.value) in found:
                text = f"the key {key.value!r} is repeated"
                raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
            found[str(key.value)] = self.construct_object(value, deep=True)
        return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping with text keys."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as wrong:
        mark = getattr(wrong, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(wrong, "problem", None) or "it is not YAML"
        raise RunError(f"{path}{line}: {problem}.") from wrong
    if not isinstance(content, dict):
        raise RunError(f"{path} must be a mapping of keys to values.")
    return content


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.2, such as jsonargparse, would take for a number."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_number = _LOOKS_LIKE_A_NUMBER.fullmatch(text) is not None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if is_number else None)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_multi_representer(int, lambda dumper, value: dumper.represent_int(int(value)))
_Dumper.add_multi_representer(float, lambda dumper, value: dumper.represent_float(float(value)))


def to_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML text, in its order; short lists in one line."""
    layout: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 100}
    return str(yaml.dump(dict(content), Dumper=_Dumper, **layout))


def shipped_configs() -> Path:
    """The folder of the configs that come with the package, installed or in a source tree."""
    package = Path(__file__).parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str, beside: Path = Path()) -> Path:
    """The path of a config: a file, beside another config, or the name of a shipped one."""
    folder, full = shipped_configs(), f"{name}.yaml"
    for path in (Path(name), beside / name, beside / full, folder / full, folder / name):
        if path.is_file():
            return path
    raise RunError(f"config {name!r} does not exist.{did_you_mean(name, config_names())}")


def config_names() -> list[str]:
    """The names of the shipped configs, e.g. `sweep/gap`."""
    folder = shipped_configs()
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return [path.with_suffix("").as_posix() for path in paths]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """` Did you mean 'x'?` with the closest known name; empty if none is close."""

    def likeness(each: str) -> float:  # `Adam` before `Adamax` for `Adma`
        difference = abs(len(each) - len(name)) / len(each + name)
        return SequenceMatcher(None, each, name).ratio() - difference

    close = max(get_close_matches(name, known, n=2), key=likeness, default=None)
    return f" Did you mean {close!r}?" if close else ""
