"""Arguments before the parser: shipped configs, flags, negative numbers, help."""

import re
from collections.abc import Sequence
from typing import Any

from bfc_lightning.cli.names import CONFIG_OPTIONS, Names
from bfc_lightning.runs.config import Study, flatten
from bfc_lightning.runs.yaml_files import find_config, read_yaml

_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def with_configs(argv: Sequence[str]) -> list[str]:
    """The arguments with every config as the path of a file that exists."""
    words = [
        part
        for word in argv
        for part in (word.split("=", 1) if word.startswith(("-c=", "--config=")) else [word])
    ]
    return [
        _readable(word) if before in CONFIG_OPTIONS else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def _readable(name: str) -> str:
    """The path of a config that is a mapping in YAML."""
    path = find_config(name)
    read_yaml(path)
    return str(path)


def normalized(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Writes negative numbers as `--key=-1e-3`, and a flag without a value as `--key=true`."""
    found: list[str] = []
    for word, following in zip(argv, [*argv[1:], "-"], strict=False):
        if _NUMBER.fullmatch(word) and found and re.fullmatch("--[^=]+", found[-1]):
            found[-1] = f"{found[-1]}={word}"
        elif word[:2] == "--" and word[2:] in flags and following.startswith("-"):
            found.append(f"{word}=true")
        else:
            found.append(word)
    return found


def parse(argv: Sequence[str], *, command: str, **kwargs: Any) -> Study:  # noqa: ANN401
    """Parses the arguments of a command; an unknown name is reported with the closest known one."""
    study = Study(prog=f"bfc {command}", **kwargs)
    words = with_configs(argv)
    show_help(study, words, command)
    defaults = flatten(study.parser.get_defaults().as_dict())
    flags = [key for key, value in defaults.items() if isinstance(value, bool)]
    names = Names(defaults, words)
    names.check()
    with names.explained():
        study.read(normalized(words, flags))
    return study


def show_help(study: Study, argv: Sequence[str], command: str) -> None:
    """Prints one screen for `--help`, a group for `--help GROUP`, everything for `--help all`."""
    asked = [number for number, word in enumerate(argv) if word in ("-h", "--help")]
    if not asked:
        return
    from bfc_lightning.cli.help import group_help, overview

    following = argv[asked[0] + 1 : asked[0] + 2]
    topic = next((word for word in following if not word.startswith("-")), "")
    text = study.parser.format_help()
    print(group_help(text, topic) if topic else overview(command, text), end="")
    raise SystemExit(0)
