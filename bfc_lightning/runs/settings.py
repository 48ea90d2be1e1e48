"""Settings as plain data: their YAML files, and which of them determine the numbers of a run."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.callbacks.exceptions import RunError

PROBLEM_GROUPS = ("inputs", "labels", "target", "model", "data")
_TRAINER_KEYS = (
    "max_steps",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "precision",
)
_EVALUATION_KEYS = ("eval_batch_size", "num_test_samples", "num_predict_samples")
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?$")


class _TextKeys(yaml.SafeLoader):
    """YAML's safe loader with every key as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys must be different."""
        self.flatten_mapping(node)
        found: dict[Any, Any] = {}
        for key, value in node.value:
            if str(key.value) in found:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is repeated", problem_mark=key.start_mark
                )
            found[str(key.value)] = self.construct_object(value, deep=True)
        return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping with text keys."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as wrong:
        mark, problem = getattr(wrong, "problem_mark", None), getattr(wrong, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RunError(f"{path}{line}: {problem or 'it is not YAML'}.") from wrong
    if not isinstance(content, dict):
        raise RunError(f"{path} must be a mapping of keys to values.")
    return content


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.2, such as jsonargparse, would take for a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def to_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML text, in its order; short lists in one line."""
    plain = json.loads(json.dumps(content))  # no instances of jsonargparse's types
    return str(
        yaml.dump(plain, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100)
    )


def shipped_configs() -> Path:
    """The folder of the configs that come with the package, installed or in a source tree."""
    inside, beside = (Path(__file__).parents[level] / "configs" for level in (1, 2))
    return inside if inside.is_dir() else beside


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
    paths = sorted(folder.rglob("*.yaml"))
    return [path.relative_to(folder).with_suffix("").as_posix() for path in paths]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """` Did you mean 'x'?` with the closest known name; empty if none is close."""

    def likeness(each: str) -> float:  # `Adam` before `Adamax` for `Adma`
        difference = abs(len(each) - len(name)) / len(each + name)
        return SequenceMatcher(None, each, name).ratio() - difference

    close = max(get_close_matches(name, known, n=2), key=likeness, default=None)
    return f" Did you mean {close!r}?" if close else ""


def flatten(tree: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; lists stay whole unless they hold mappings."""
    if isinstance(tree, list) and any(isinstance(entry, Mapping) for entry in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine a run's numbers, by dotted key."""
    kept = {key: settings[key] for key in (*PROBLEM_GROUPS, "scheme", "seed_everything")}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in _EVALUATION_KEYS}
    if "baseline" in settings:
        return flatten({**kept, "baseline": settings["baseline"]})
    return flatten({**kept, "trainer": {key: settings["trainer"][key] for key in _TRAINER_KEYS}})


def digest(settings: Mapping[str, Any]) -> str:
    """A digest of the identity, before seeds are filled in: the same one means the same numbers."""
    text = json.dumps(identity(settings), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first five keys that differ, in one line, without seeds that follow from the run's."""
    absent = "absent"
    keys = [key for key in {**stored, **here} if stored.get(key, absent) != here.get(key, absent)]
    if "seed_everything" in keys:
        keys = [key for key in keys if not key.endswith(".seed")]
    clauses = [f"{k} is {here.get(k, absent)!r}, was {stored.get(k, absent)!r}" for k in keys[:5]]
    more = [f"and {len(keys) - 5} more"] if len(keys) > 5 else []
    return "; ".join([*clauses, *more])
