"""Configs and arguments with mistakes in them, many of which only building the objects finds."""

import copy
import json
import math
from random import Random

import yaml

from tests.faults.values import CLASSES, NASTY, ODD_FILES, OPTIONS, PIECES, SETTINGS

_CHANGES = {"nudge": 65, "add": 20, "set": 9, "delete": 4, "rename": 2}


def mutated_tree(tree: dict, random: Random) -> dict:
    """One to three changes of a config, most of them to another value of the same type."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        kind = random.choices(list(_CHANGES), list(_CHANGES.values()))[0]
        places = _places(tree)
        if kind == "nudge":
            places = [place for place in places if not isinstance(place[0][place[1]], dict)]
        if kind == "add" or not places:
            _add(tree, random)
        else:
            _change(*random.choice(places), kind, random)
    return tree


def _places(tree: object, above: str = "") -> list[tuple]:
    """The parent, the key, and the key of the parent of every value in a tree."""
    if not isinstance(tree, dict | list):
        return []
    keys = range(len(tree)) if isinstance(tree, list) else tree
    return [place for k in keys for place in [(tree, k, above), *_places(tree[k], str(k))]]


def _add(tree: dict, random: Random) -> None:
    """Sets a key of `bfc fit`; in an experiment, one of a learner."""
    key = random.choice(list(SETTINGS))
    if isinstance(tree.get("learners"), dict) and tree["learners"]:
        tree = tree["learners"].setdefault(random.choice(list(tree["learners"])), {})
    *above, last = key.split(".")
    for name in above:
        if isinstance(tree, dict):
            tree = tree[name] if isinstance(tree.get(name), dict) else tree.setdefault(name, {})
    if isinstance(tree, dict):
        tree[last] = copy.deepcopy(_value(key, random))


def _value(key: str, random: Random) -> object:
    return random.choice(SETTINGS[key] if random.random() < 0.85 else NASTY)


def _change(parent: dict | list, key: object, above: str, kind: str, random: Random) -> None:
    if kind == "delete":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        names = [f"{key}x", "", "ü", 3, None, str(key).upper(), str(key)[:-1]]
        parent[random.choice(names)] = parent.pop(key)
    elif kind == "nudge":
        parent[key] = copy.deepcopy(_alike(parent[key], (above, str(key)), random))
        if key == "class_path" and random.random() < 0.7:  # its arguments seldom fit another class
            parent.pop("init_args", None)
    else:
        parent[key] = copy.deepcopy(random.choice([*NASTY, [parent[key]]]))


def _alike(value: object, names: tuple[str, str], random: Random) -> object:
    """Another value of the same type; for a class_path, a class of the same role."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = [value + 1, value - 1, 2 * value, value // 2, 3 * value + 1]
        return random.choice([*near, *near, 0, 1, 2, -1, -value, 1000, 10**6, 10**12, 2**63])
    if isinstance(value, float):
        near = [value / 2, 2 * value, 0.9 * value, value + 0.1]
        return random.choice([*near, *near, 0.0, 1.0, -value, 1e-30, 1e30, math.nan, math.inf])
    if isinstance(value, list):
        inside = [_alike(entry, names, random) for entry in value]
        return random.choice([inside, value[1:], value[::-1], [*value, *value], []])
    roles = [role for role in CLASSES if role in names]
    return random.choice(CLASSES[random.choice(roles or list(CLASSES))])


def config_text(tree: dict, random: Random) -> bytes:
    """A config as a file may contain it: mostly YAML with other content, at times no YAML."""
    text = yaml.safe_dump(mutated_tree(tree, random), sort_keys=False, allow_unicode=True).encode()
    kind = random.choices(["yaml", "cut", "insert", "odd"], [92, 2, 4, 2])[0]
    where = random.randint(0, len(text))
    if kind == "cut":
        return text[:where]
    if kind == "insert":
        return text[:where] + random.choice(PIECES) + text[where:]
    return random.choice(ODD_FILES) if kind == "odd" else text


def command_line(argv: list[str], random: Random) -> list[str]:
    """One to three arguments added, dropped or doubled; the command itself stays."""
    argv = list(argv)
    for _ in range(random.choice([1, 1, 2, 3])):
        kind = random.choices(["option", "drop", "double"], [94, 3, 3])[0]
        at = random.randrange(len(argv))
        if kind == "option" or not at:
            argv += _option(argv[0], random)
        elif kind == "drop":
            del argv[at]
        else:
            argv.insert(at, argv[at])
    return argv


def _option(command: str, random: Random) -> list[str]:
    """An option of a command, or a key of `bfc fit` with a value, mostly one of its type."""
    is_experiment = command in ("compare", "sweep", "claims")
    if is_experiment or random.random() < 0.3:
        return [random.choice([*OPTIONS["any"], *OPTIONS.get(command, ())])]
    key = random.choice(list(SETTINGS))
    value = _value(key, random)
    return [f"--{key}", value if isinstance(value, str) else json.dumps(value, default=str)]
