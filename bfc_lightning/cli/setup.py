"""`bfc init` copies the shipped configs; `bfc completion` prints a completion script."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import shtab
from jsonargparse import ArgumentParser

from bfc_lightning.cli.console import usage_errors
from bfc_lightning.cli.experiments import claims_parser, options_parser
from bfc_lightning.cli.options import STUDIES
from bfc_lightning.runs.config import Study
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.settings import config_names, flatten, shipped_configs


def init_command(command: str, argv: Sequence[str]) -> int:
    """Copies the shipped configs into a folder that does not exist yet."""
    parser = ArgumentParser("bfc init", description="Copy the configs.", exit_on_error=False)
    parser.add_argument("folder", metavar="DIR", type=Path)
    with usage_errors():
        folder = parser.parse_args(list(argv)).folder
        if folder.exists():
            raise RunError(f"{folder} exists: choose a folder that does not exist.")
        shutil.copytree(shipped_configs(), folder, ignore=shutil.ignore_patterns("__*"))
    count = len(list(folder.rglob("*.yaml")))
    print(f"wrote {count} configs to {folder}; next: bfc fit -c {folder / 'quickstart.yaml'}")
    return 0


def completion_command(command: str, argv: Sequence[str]) -> int:
    """Prints a completion script; completing needs no Python."""
    about = "Print a completion script."
    parser = ArgumentParser("bfc completion", description=about, exit_on_error=False)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    print(shtab.complete(_names_parser(), shell=parser.parse_args(list(argv)).shell))
    return 0


def _names_parser() -> argparse.ArgumentParser:
    """A plain parser with the names of every option."""
    parsers = {name: Study(**given).parser for name, given in STUDIES.items()}
    parsers |= dict.fromkeys(("compare", "sweep"), options_parser())
    parsers["claims"] = claims_parser()
    parser = argparse.ArgumentParser(prog="bfc")
    commands = parser.add_subparsers()
    for name in (*parsers, "init", "completion"):
        commands.add_parser(name, help=name)  # shtab leaves out those without help
    for name, own in parsers.items():
        keys = flatten(own.get_defaults().as_dict()).keys() - {"config", "names"}
        commands.choices[name].add_argument("-c", "--config", choices=config_names())
        for key in sorted({key.replace(".init_args.", ".") for key in keys}):
            commands.choices[name].add_argument(f"--{key}")
    return parser
