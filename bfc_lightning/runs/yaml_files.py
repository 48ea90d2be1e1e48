"""YAML files: found among the shipped ones, read strictly, and written so that they read back."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
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
        keys = [str(getattr(key, "value", "")) for key, _ in node.value]
        repeated = [
            pair[0] for number, pair in enumerate(node.value) if keys[number] in keys[:number]
        ]
        if repeated:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {repeated[0].value!r} is repeated", repeated[0].start_mark
            )
        values = [self.construct_object(value, deep=True) for _, value in node.value]
        return dict(zip(keys, values, strict=True))


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
    text: str = yaml.dump(
        dict(content), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100
    )
    return text


def shipped_configs() -> Path:
    """The folder of the configs that come with the package, installed or in a source tree."""
    package = Path(__file__).parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str, beside: Path | None = None) -> Path:
    """The path of a config: a file, beside another config, or the name of a shipped one."""
    for path in (Path(name), *([beside / name] if beside else [])):
        if path.is_file():
            return path
    folder = shipped_configs()
    for path in (folder / f"{name}.yaml", folder / name):
        if name and path.is_file():
            return path
    known = sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )
    raise RunError(f"config {name!r} does not exist.{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """` Did you mean 'x'?` with the closest known name; empty if none is close."""
    near = [each for each in known if _is_one_edit(name, each)]
    begun = [each for each in known if each.startswith(name)] if len(name) > 2 else []
    close = near or begun or get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _is_one_edit(one: str, other: str) -> bool:
    """Whether one letter was changed, added or left out, or two neighbors were exchanged."""
    begin = _num_equal(one, other)
    a, b = one[begin:], other[begin:]
    end = _num_equal(a[::-1], b[::-1])
    a, b = a[: len(a) - end], b[: len(b) - end]
    return max(len(a), len(b)) == 1 or (len(a) == 2 and a == b[::-1])


def _num_equal(one: str, other: str) -> int:
    """The number of equal letters at the beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
