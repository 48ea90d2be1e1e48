"""Configs and command lines with mistakes in them, many of which only the building finds."""

import copy
import json
import math
from random import Random

import yaml

from tests.faults.values import EXTRA, NASTY, ODD_FILES, PIECES, ROLES, WORDS

_CHANGES = {"nudge": 68, "add": 18, "set": 5, "delete": 4, "rename": 2, "wrap": 3}


def mutated_tree(tree: dict, random: Random, strange: object) -> dict:
    """One to three changes of a config, most of them to a value of the same type.

    Args:
        tree: the config.
        random: what is changed follows from it.
        strange: any value, which is put somewhere at times.
    """
    tree = copy.deepcopy(tree)
    for _ in range(random.choice([1, 1, 1, 1, 1, 2, 2, 3])):
        kind = _chosen(_CHANGES, random)
        places = _places(tree)
        if kind == "add" or not places:
            _add(tree, random, strange)
            continue
        place = random.choice(places)
        if kind == "nudge":
            leaves = [each for each in places if not isinstance(_at(tree, each), dict)]
            place = random.choice(leaves or places)
        _change(tree, place, kind, random, strange)
    return tree


def _chosen(weights: dict[str, int], random: Random) -> str:
    return random.choices(list(weights), list(weights.values()))[0]


def _places(tree: object, above: tuple = ()) -> list[tuple]:
    """Every place in a tree of mappings and lists, but its root."""
    keys = range(len(tree)) if isinstance(tree, list) else tree if isinstance(tree, dict) else ()
    return [place for key in keys for place in [(*above, key), *_places(tree[key], (*above, key))]]


def _at(tree: object, place: tuple) -> object:
    for key in place:
        tree = tree[key]
    return tree


def _add(tree: dict, random: Random, strange: object) -> None:
    """Sets a key of `bfc fit`, in an experiment that of a learner, most often to what it takes."""
    key, value = _setting(_keys("baseline" if "baseline" in tree else "fit"), random, strange)
    if isinstance(tree.get("learners"), dict) and tree["learners"]:
        tree = tree["learners"].setdefault(random.choice(list(tree["learners"])), {})
    elif "base" in tree and isinstance(tree.get("grid"), dict):
        tree, key, value = tree["grid"], (key,), [value]
    if isinstance(tree, dict):
        _set(tree, key, value)


def _keys(command: str) -> list[str]:
    """Keys that a command takes."""
    of_some = {"baseline": ("baseline",), "resume": ("fit",)}
    of_some["ckpt_path"] = ("validate", "test", "predict")
    return [key for key in EXTRA if command in of_some.get(key.split(".")[0], (command,))]


def _setting(keys: list[str], random: Random, strange: object) -> tuple[tuple[str, ...], object]:
    key = random.choice(keys)
    junk = random.choice([*NASTY, strange])
    return tuple(key.split(".")), random.choice(EXTRA[key]) if random.random() < 0.9 else junk


def _set(tree: dict, key: tuple[str, ...], value: object) -> None:
    *above, last = key
    for name in above:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = copy.deepcopy(value)


def _change(tree: dict, place: tuple, kind: str, random: Random, strange: object) -> None:
    parent, key = _at(tree, place[:-1]), place[-1]
    junk = random.choice([*NASTY, strange])
    if kind == "delete":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        names = [f"{key}x", "", "ü", 3, None, str(key).upper(), str(key)[:-1]]
        parent[random.choice(names)] = parent.pop(key)
    elif kind == "nudge":
        parent[key] = copy.deepcopy(alike(parent[key], place, random))
        if key == "class_path" and random.random() < 0.7:  # which seldom fit another class
            parent.pop("init_args", None)
    elif kind == "wrap":
        value = parent[key]
        parent[key] = random.choice([[value], {"init_args": value}, str(value)])
    else:
        parent[key] = copy.deepcopy(junk)


def alike(value: object, place: tuple, random: Random) -> object:
    """Another value of the same type.

    Args:
        value: any.
        place: where it stands; other classes for a class_path follow from it.
        random: which one.
    """
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = [value + 1, value - 1, 2 * value, value // 2, 3 * value + 1]
        return random.choice([*near, *near, 0, 1, 2, -1, -value, 1000, 10**6, 10**12, 2**63])
    if isinstance(value, float):
        near = [value / 2, 2 * value, 0.9 * value, value + 0.1]
        far = [0.0, 1.0, -value, 1e-30, 1e30, math.nan, math.inf]
        return random.choice([*near, *near, *far])
    if isinstance(value, list):
        return _other_list(value, place, random)
    words = [str(key) for key in place]
    roles = [role for role in ROLES if role in words[-2:]]
    known = ROLES[roles[0]] if roles else [word for role in ROLES.values() for word in role]
    return random.choice(known)


def _other_list(value: list, place: tuple, random: Random) -> list:
    kinds = [value[1:], value[:-1], value[::-1], [*value, *value[-1:]], [*value, *value], []]
    if value and random.random() < 0.5:
        where = random.randrange(len(value))
        entry = alike(value[where], (*place, where), random)
        return [*value[:where], entry, *value[where + 1 :]]
    return random.choice(kinds)


def config_text(tree: dict, random: Random, strange: object) -> bytes:
    """A config as it may lie on a disk: mostly YAML with other content, at times no YAML."""
    tree = mutated_tree(tree, random, strange)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()
    kind = _chosen({"yaml": 92, "cut": 2, "insert": 3, "twice": 1, "odd": 2}, random)
    where = random.randint(0, len(text))
    if kind == "cut":
        return text[:where]
    if kind == "insert":
        return text[:where] + random.choice(PIECES) + text[where:]
    if kind == "twice":
        return text + text[text.find(b"\n", where) + 1 :]
    if kind == "odd":
        return random.choice(ODD_FILES) + random.choice([b"", text])
    return text


def command_line(words: list[str], random: Random, strange: object) -> list[str]:
    """Words left out, doubled, swapped, others put in; the command itself mostly stays."""
    words = list(words)
    for _ in range(random.choice([1, 1, 2, 3])):
        kind = _chosen({"option": 82, "junk": 9, "drop": 3, "double": 3, "swap": 3}, random)
        at = random.randint(1, len(words))
        if kind == "option":
            words += _option(words[0], random, strange)
        elif kind == "junk" or at == len(words):
            words.insert(at, random.choice(WORDS["any"]))
        elif kind == "drop":
            del words[at]
        elif kind == "double":
            words.insert(at, words[at])
        else:
            words[at], words[1] = words[1], words[at]
    return words


def _option(command: str, random: Random, strange: object) -> list[str]:
    """An option of a command, or a key of `bfc fit` with a value, most often one of its type."""
    own = WORDS.get(command, [])
    takes_keys = command in ("fit", "validate", "test", "predict", "baseline")
    if own and (not takes_keys or random.random() < 0.4):
        return [random.choice(own)]
    if not takes_keys:
        return [random.choice(WORDS["any"])]
    place, value = _setting(_keys(command), random, strange)
    key = ".".join(place)
    try:
        return [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    except (TypeError, ValueError):  # a date, or a mapping with other keys than words
        return [f"--{key}", str(value)]
