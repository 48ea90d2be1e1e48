"""Mistakes in the input, told in one line: the key, the rule and the value."""

import itertools
import re
from inspect import isabstract
from pathlib import Path

# The argument groups whose classes jsonargparse names by their base class only.
_GROUPS = {
    "targets.base.Target": "target",
    "inputs.InputDistribution": "inputs",
    "labels.Labels": "labels",
    "schemes.Scheme": "scheme",
    "baselines.base.Baseline": "baseline",
}
_KNOWN = {
    "target": "HierarchicalTarget, RichRepresentation, BackwardCorrection, SingleIndex, "
    "QuadraticFeature, DepthSeparation, Sight",
    "inputs": "Gaussian, GaussianMixture",
    "labels": "Regression, Classification",
    "scheme": "Joint, Progressive, Layerwise",
}
_NOISE = (
    *("<class 'NoneType'>", "not accessible or invalid", "any of the Union", "a class path (str)"),
    *("a dict with class_path entry", "a dict without class_path", "a dict with parameters"),
)
_KEY = re.compile(r'^( *)(.*?)Parser key "([^"]+)":[ ]?', re.MULTILINE)
_REQUIRED = "the following arguments are required: "
_LONGEST = 600


def one_line(message: str) -> str:
    """Makes one clear line of a message, also of jsonargparse's trees of alternatives.

    Args:
        message: what went wrong, on any number of lines.

    Returns:
        `key: what was refused, got value`, without the alternatives that say nothing.
    """
    for said, meant in _OF_SIZES:
        message = re.sub(said, meant, message)
    key, text = _innermost(message)
    reasons = [_plain(reason) for reason in _reasons(text)]
    if {"expected float", "expected int"} & set(reasons):  # a tensor in its place is not meant
        reasons = [reason for reason in reasons if "must be the name" not in reason]
    given = _first(r"Given value: (?!NestedArg)(.*?)(?:\. Got value: Namespace.*)?$", text)
    if not reasons:
        line = _plain(" ".join(text.partition("\n  - ")[0].split()))
        line = _with_hint(line) if key is None else line.replace(_REQUIRED, "init_args must have ")
    elif any(_is_whole(reason) for reason in reasons):
        line = next(reason for reason in reasons if _is_whole(reason))
        if line.startswith("must be the name") and ", got " not in line and given is not None:
            line = f"{line.rstrip('.')}, got {_shown(given)}."
    else:
        line = " or ".join(dict.fromkeys(reasons)).rstrip(".")
        is_told = ", got " in line
        line = f"{line}." if given is None or is_told else f"{line}, got {_shown(given)}."
    if key is not None and "must be the name" in line:
        line = f"{line}{_known(key)}"
    line = f"{key}: {line}" if key and not line.startswith(key) else line
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def _innermost(message: str) -> tuple[str | None, str]:
    """The key that is wrong, down to the argument of a class, and what is said of it."""
    group = None if message.lstrip().startswith("Parser key") else _group(message)
    keys, text = [] if group is None else [group], message
    while found := _KEY.search(text):
        first, *others = text[found.end() :].split("\n")
        if keys:  # else all that follows belongs to it
            others = list(itertools.takewhile(lambda line: _is_deeper(line, found[1]), others))
        if found[3] not in keys[-1:]:
            keys.append(found[3])
        text = "\n".join([first, *others])
    return (".init_args.".join(keys) if keys else None), text


def _is_deeper(line: str, indent: str) -> bool:
    return not line.strip() or _indent(line) > len(indent)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _reasons(message: str) -> list[str]:
    """What stands behind each dash, with the lines that belong to it."""
    found: list[list[str]] = []
    dash_indent = -1
    for text in message.splitlines():
        indent = _indent(text)
        if text.lstrip().startswith("- "):
            found.append([text.strip()[2:]])
            dash_indent = indent
        elif found and indent > dash_indent and text.strip():
            found[-1].append(text.strip())
        else:
            dash_indent = 10**6
    joined = [" ".join(lines) for lines in found]
    return [reason for reason in joined if not any(noise in reason for noise in _NOISE)]


# What torch says of sizes, with addresses behind it.
_TOO_LARGE = "a size in the settings is larger than any memory"
_OF_SIZES = (
    (r"\[enforce fail at [^\]]*\] err == 0\. \w+: ", ""),
    (r"\. Error code 12 \(Cannot allocate memory\)(?:\. Got value: .*)?", ""),
    (r"\w+\(\): argument 'size' failed to unpack [\s\S]*", _TOO_LARGE),
    (r"(?:RuntimeError: )?Storage size calculation overflowed[\s\S]*", _TOO_LARGE),
    (r"\s*Exception raised from [\s\S]*", ""),
)
# What jsonargparse and Python say, and what is meant; each is tried in turn.
_MEANT = (
    (r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1"),
    (r"typing\.", ""),
    (r"^Type \S*Callable\[.*\] expects a function or a callable class: ", ""),
    (r"\.? Got value: Namespace\(class_path='([^']*)'.*", r", got \1"),
    (r", got Namespace\(class_path='([^']*)'.*", r", got \1."),
    (r"^Problem with given class_path '([^']+)':", r"class_path \1:"),
    (
        r"^Expected a dot import path string:\s*(.*)",
        lambda found: f"must be the name or the import path of a class, got {_shown(found[1])}.",
    ),
    (
        r"^Not a valid subclass of Axis\b.*?(?: Got value: (.*?))?(?: Subclass types .*)?$",
        lambda found: f"each axis must have a key and values, got {_shown(found[1] or '')}.",
    ),
    (
        r"^Not a valid subclass of (\w+)\b.*?(?: Got value: (.*?))?(?: Subclass types .*)?$",
        lambda found: (
            f"must be the name or the import path of a class, here of kind {found[1]}"
            f"{'' if found[2] is None else f', got {_shown(found[2])}'}."
        ),
    ),
    (
        r"^Expected an instantiatable class, but \S+ is abstract.*",
        "must be the name or the import path of a class.",
    ),
    (
        r"^Import path ?(\S*) does not correspond to a subclass of (\w+)",
        lambda found: (
            f"must be the name or the import path of a class, here of kind {found[2]}"
            f"{f', got {found[1]}' if found[1] else ''}."
        ),
    ),
    (
        r"^Unable to load config ['\"](.*?)['\"].*",
        r"must be a mapping of settings, got '\1'.",
    ),
    (r"^Key must be a string, got: (.*?)\.?$", r"a key of the config must be a word, got \1."),
    (r"^Empty nested key: .*", "a key of the config must be a word, got ''."),
    (r"^argument of type '\w+' is not .*", "must be the name or the import path of a class."),
    (r"'\w+' object has no attribute 'keys'", "init_args must be a mapping"),
    (r"^Not of type \w+: (\S+) does not conform to restriction v>=0$", r"must be v>=0, got \1"),
    (
        r"^Not of type \w+: invalid literal for int\(\) with base 10: (.*)$",
        lambda found: f"expected int, got {found[1]}",
    ),
    (r"^Not of type \w+: int\(\) argument must be .*, not '(.*)'$", r"expected int, got a \1"),
    (r"^Not of type Path_fr: Expected path to be .*", "must be the paths of configs"),
    (r"^Not of type \w+: ", ""),
    (r"(?<=: )the following arguments are required: ", "init_args must have "),
    (r"^Expected an? dict\b", "expected a mapping"),
    (r"^Expected an? ", "expected "),
    (r"\.? Got value:(.*)$", lambda found: f", got {_shown(found[1].strip())}"),
)


def _plain(reason: str) -> str:
    """A reason in the words of our own messages."""
    for said, meant in _MEANT:
        reason = re.sub(said, meant, reason)
    return reason


def _shown(value: str) -> str:
    """A value as a word: what has a class_path as that, an empty one as ''."""
    value = re.sub(r"^(?:Namespace\(class_path=|\{'class_path': )'([^']*)'.*", r"\1", value)
    return value if value.strip() else "''"


def _with_hint(line: str) -> str:
    """Says what was probably meant."""
    if line.strip() == "unrecognized arguments:":
        return f"{line.strip()} ''"
    stray = _first(r"^unrecognized arguments: (\S+)$", line)
    if stray is not None and Path(stray).is_file():
        return f"{line} (a config is given by -c {stray})"
    if re.match("Invalid (learning rate|weight_decay|beta|momentum|epsilon)", line):
        return f"model.optimizer: {line}"
    if re.search("option '(learners|grid|base|seeds|points)", line):
        return f"{line} (it is one of bfc compare or bfc sweep)"
    if "ambiguous option: --model.lr " in line:
        return f"{line} (the learning rate is --model.optimizer.lr)"
    if line.startswith(_REQUIRED):
        keys = re.sub(r"\b(fit|validate|test|predict)\.", "", line.removeprefix(_REQUIRED))
        return f"{keys} must be given, in a config (-c FILE) or as --KEY."
    return line


def _is_whole(reason: str) -> bool:
    """Whether a reason tells all by itself."""
    is_told = ", got " in reason or "must " in reason
    return is_told or reason.startswith("class_path")


def _known(key: str) -> str:
    """The classes that a key may name, where we know them."""
    if key != "baseline":
        return f" Known: {_KNOWN[key]}." if key in _KNOWN else ""
    from bfc_lightning import baselines

    kinds = {name: getattr(baselines, name) for name in baselines.__all__ if name != "Task"}
    names = [name for name, kind in kinds.items() if not isabstract(kind)]
    return f" Known: {', '.join(names)}."


def _group(message: str) -> str | None:
    return next((group for base, group in _GROUPS.items() if base in message), None)


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else None
