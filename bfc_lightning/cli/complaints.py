"""Mistakes in the input, told in one line: the key, the rule and the value."""

import re
from inspect import isabstract
from pathlib import Path

# The argument groups whose classes jsonargparse names by their base class only.
_GROUPS = {
    "targets.base.Target": "target",
    "inputs.InputLaw": "inputs",
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
_NOISE = ("<class 'NoneType'>", "not accessible or invalid", "any of the Union")
_LONGEST = 600


def one_line(message: str) -> str:
    """Makes one clear line of a message, also of jsonargparse's trees of alternatives.

    Args:
        message: what went wrong, on any number of lines.

    Returns:
        `key: what was refused, got value`, without the alternatives that say nothing.
    """
    key = _first(r'Parser key "([^"]+)"', message) or _group(message)
    reasons = [_plain(reason) for reason in _reasons(message)]
    if not reasons:
        line = re.sub(r'^Parser key "[^"]+":\s*', "", " ".join(message.split()))
        line = _with_hint(line)
    elif any(_is_whole(reason) for reason in reasons):
        line = next(reason for reason in reasons if _is_whole(reason))
    else:
        given = _first(r"Given value: (.*)", message)
        line = " or ".join(dict.fromkeys(reasons)).rstrip(".")
        line = f"{line}, got {given}." if given and given not in line else f"{line}."
    if key is not None and "must be the name" in line:
        line = f"{line}{_known(key)}"
    line = f"{key}: {line}" if key and not line.startswith(key) else line
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def _reasons(message: str) -> list[str]:
    """What stands behind each dash, with the lines that belong to it."""
    found: list[list[str]] = []
    dash_indent = -1
    for text in message.splitlines():
        indent = len(text) - len(text.lstrip())
        if text.lstrip().startswith("- "):
            found.append([text.strip()[2:]])
            dash_indent = indent
        elif found and indent > dash_indent and text.strip():
            found[-1].append(text.strip())
        else:
            dash_indent = 10**6
    joined = [" ".join(lines) for lines in found]
    return [reason for reason in joined if not any(noise in reason for noise in _NOISE)]


def _plain(reason: str) -> str:
    """A reason in the words of our own messages."""
    reason = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", reason).replace("typing.", "")
    reason = re.sub(r"^Problem with given class_path '([^']+)':", r"class_path \1:", reason)
    reason = re.sub(
        r"^Expected a dot import path string:\s*(.*)",
        lambda found: f"must be the name or the import path of a class, got {found[1] or 'none'}.",
        reason,
    )
    reason = re.sub(
        r"^Not a valid subclass of (\w+)\W.*",
        r"must be the name or the import path of a class, here a \1.",
        reason,
    )
    reason = re.sub(
        r"^Expected an instantiatable class, but \S+ is abstract.*",
        "must be the name or the import path of a class.",
        reason,
    )
    return re.sub(r"^Expected an? ", "expected ", reason)


def _with_hint(line: str) -> str:
    """Says what was probably meant."""
    stray = _first(r"^unrecognized arguments: (\S+)$", line)
    if stray is not None and Path(stray).is_file():
        return f"{line} (a config is given by -c {stray})"
    if "ambiguous option: --model.lr " in line:
        return f"{line} (the learning rate is --model.optimizer.lr)"
    required = "the following arguments are required: "
    if line.startswith(required):
        keys = re.sub(r"\b(fit|validate|test|predict)\.", "", line.removeprefix(required))
        return f"{keys} must be given, in a config (-c FILE) or as --KEY."
    return line


def _is_whole(reason: str) -> bool:
    """Whether a reason tells all by itself."""
    return ", got " in reason or reason.startswith("class_path") or reason.endswith("a class.")


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
    found = re.search(pattern, text)
    return found.group(1) if found else None
