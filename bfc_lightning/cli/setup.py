"""`bfc init` copies the shipped configs; `bfc completion` prints a completion script."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from bfc_lightning.cli.errors import usage_errors
from bfc_lightning.runs.config import Study, flatten
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.yaml_files import shipped_configs

_SHELLS = ("bash", "zsh", "tcsh")


def init_command(argv: Sequence[str]) -> int:
    """Copies the shipped configs into a folder that does not exist yet."""
    with usage_errors():
        if len(argv) != 1 or argv[0].startswith("-"):
            print("usage: bfc init DIR\n\nCopies the shipped configs to DIR, to be edited.")
            return 0 if argv[:1] in (["-h"], ["--help"]) else 2
        folder = Path(argv[0])
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} must be a new or empty folder.")
        shutil.copytree(
            shipped_configs(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__*")
        )
    print(f"wrote {len(list(folder.rglob('*.yaml')))} configs to {folder}; next:")
    print(f"  bfc fit -c {folder / 'quickstart.yaml'}")
    return 0


def completion_command(argv: Sequence[str]) -> int:
    """Prints a completion script; completing needs no Python."""
    with usage_errors():
        if len(argv) != 1 or argv[0] not in _SHELLS:
            print(f"usage: bfc completion {'|'.join(_SHELLS)}\n\nFor bash:")
            print("  bfc completion bash > ~/.local/share/bash-completion/completions/bfc")
            return 0 if argv[:1] in (["-h"], ["--help"]) else 2
        import shtab

        print(shtab.complete(_parser(), shell=argv[0]))
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
        if name == "completion":
            command.add_argument("shell", choices=_SHELLS)
        if name not in ("init", "completion", "claims"):
            command.add_argument("-c", "--config", choices=configs)
        for key in _options(name):
            command.add_argument(f"--{key}")
    return parser


def _options(command: str) -> list[str]:
    """The options of a command."""
    from bfc_lightning.baselines import Baseline
    from bfc_lightning.cli.claims import claims_parser
    from bfc_lightning.cli.experiments import options_parser

    if command in ("init", "completion"):
        return []
    own = {"fit": ["resume"], "baseline": []}.get(command, ["ckpt_path"])
    if command == "claims":
        own, parser = [], claims_parser()
    elif command in ("compare", "sweep"):
        own, parser = [], options_parser()
    else:
        parser = Study(extra={"baseline": Baseline} if command == "baseline" else {}).parser
    keys = {key.replace(".init_args.", ".") for key in flatten(parser.get_defaults().as_dict())}
    return sorted({*own, *keys} - {"config", "names"})
