"""Mistakes in the input, told in one line: the key, the rule and the value."""

import re

# The argument groups whose classes jsonargparse names by their base class only.
_GROUPS = {"targets.base.Target": "target", "inputs.InputLaw": "inputs", "labels.Labels": "labels"}
_NOISE = ("Expected a <class 'NoneType'>", "not accessible or invalid", "any of the Union")


def one_line(message: str) -> str:
    """Makes one clear line of a message, also of jsonargparse's trees of alternatives.

    Args:
        message: what went wrong, on any number of lines.

    Returns:
        `key: what was refused, got value`, without the alternatives that say nothing.
    """
    key = _first(r'Parser key "([^"]+)"', message) or _group(message)
    reasons = [
        reason.strip()
        for reason in re.findall(r"^\s*- (.*)$", message, flags=re.MULTILINE)
        if not any(noise in reason for noise in _NOISE)
    ]
    if not reasons:
        line = message
    elif len(reasons) == 1 and ", got " in reasons[0]:
        line = reasons[0]
    else:
        given = _first(r"Given value: (.*)", message)
        line = " or ".join(_plain(reason) for reason in dict.fromkeys(reasons))
        line = f"{line}, got {given}." if given else line
    line = re.sub(r'^Parser key "[^"]+":\s*', "", " ".join(line.split()))
    return f"{key}: {line}" if key and not line.startswith(key) else line


def _group(message: str) -> str | None:
    return next((group for base, group in _GROUPS.items() if base in message), None)


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None


def _plain(reason: str) -> str:
    """Names of types without Python's decoration."""
    reason = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", reason).replace("typing.", "")
    return re.sub(r"^Expected an? ", "expected ", reason).rstrip(".")
