"""`bfc init` copies the shipped configs; `bfc completion` prints a completion script."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.runs.config import Study, flatten
from bfc_lightning.runs.yaml_files import shipped_configs

_SHELLS = ("bash", "zsh", "tcsh")


def init_command(argv: Sequence[str]) -> int:
    """Copies the shipped configs into a folder that does not exist yet."""
    parser = ArgumentParser(
        prog="bfc init", description="Copy the shipped configs, to edit them.", exit_on_error=False
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    with usage_errors():
        folder = parser.parse_args(list(argv)).folder
        shutil.copytree(shipped_configs(), folder, ignore=shutil.ignore_patterns("__*"))
    count = len(list(folder.rglob("*.yaml")))
    print(f"wrote {count} configs to {folder}; next: bfc fit -c {folder / 'quickstart.yaml'}")
    return 0


def completion_command(argv: Sequence[str]) -> int:
    """Prints a completion script; completing needs no Python."""
    parser = ArgumentParser(
        prog="bfc completion", description="Print a completion script.", exit_on_error=False
    )
    parser.add_argument("shell", choices=_SHELLS)
    with usage_errors():
        import shtab

        print(shtab.complete(_parser(), shell=parser.parse_args(list(argv)).shell))
    return 0


def _parser() -> argparse.ArgumentParser:
    """A plain parser with the names of every option."""
    from bfc_lightning.cli import _COMMANDS

    folder = shipped_configs()
    configs = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.y*"))
    parser = argparse.ArgumentParser(prog="bfc")
    commands = parser.add_subparsers()
    for name in _COMMANDS:
        command = commands.add_parser(name, help=name)  # shtab leaves out those without help
        if name not in ("init", "completion"):
            command.add_argument("-c", "--config", choices=configs)
            for key in _options(name):
                command.add_argument(f"--{key}")
    return parser


def _options(command: str) -> list[str]:
    """The options of a command."""
    from bfc_lightning.baselines import Baseline
    from bfc_lightning.cli.claims import claims_parser
    from bfc_lightning.cli.evaluate import CHECKPOINT
    from bfc_lightning.cli.experiments import options_parser
    from bfc_lightning.cli.fit import RESUME

    if command in ("compare", "sweep", "claims"):
        parser = claims_parser() if command == "claims" else options_parser()
    elif command == "baseline":
        parser = Study(extra={"baseline": Baseline}).parser
    else:
        parser = Study(options=RESUME if command == "fit" else CHECKPOINT).parser
    keys = {key.replace(".init_args.", ".") for key in flatten(parser.get_defaults().as_dict())}
    return sorted(keys - {"config", "names"})
