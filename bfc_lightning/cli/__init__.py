"""The command line, `bfc`. Each command imports only what it needs."""

import gc
import os
import sys
from collections.abc import Sequence
from pkgutil import resolve_name

from bfc_lightning import __version__

USAGE = """\
usage: bfc COMMAND [-c CONFIG ...] [--KEY VALUE ...]

Train over-parameterized DenseNets on hierarchical targets, and measure how the layers above
correct those below.

commands:
  fit          train a learner: bfc fit -c quickstart
  validate     score a checkpoint on the validation samples
  test         score a checkpoint on samples that training never uses
  predict      write inputs, targets and predictions of a checkpoint
  baseline     fit a kernel or another method on the same problem
  compare      train several learners on a grid with several seeds: bfc compare -c compare/schemes
  sweep        another name of compare: bfc sweep -c sweep/gap
  claims       test the claims of the theory: bfc claims --list
  init         copy the shipped configs: bfc init DIR
  completion   print a completion script: bfc completion bash

  bfc COMMAND --help      options and examples of a command
  bfc --version           the version

exit codes: 0 success, 1 error, 2 usage error, 3 diverged, 4 out of memory, 130 and 143 stopped by
SIGINT and SIGTERM.
"""
_COMMANDS = {
    "fit": "fit:fit_command",
    "validate": "evaluate:evaluate_command",
    "test": "evaluate:evaluate_command",
    "predict": "evaluate:evaluate_command",
    "baseline": "evaluate:baseline_command",
    "compare": "experiments:experiment_command",
    "sweep": "experiments:experiment_command",
    "claims": "experiments:claims_command",
    "init": "setup:init_command",
    "completion": "setup:completion_command",
}
_POOLED = ("compare", "sweep", "claims")  # commands that run others
_WITHOUT_RUNS = ("-h", "--help", "--list", "--report", "--cluster")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, that of the process by default, and returns the exit code."""
    is_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    if is_process:
        # Searching what is imported for garbage takes half a second now, and more at the end.
        gc.disable()
        os.environ["MPLBACKEND"] = "Agg"  # figures go to files, whatever a notebook has set
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if "--version" in argv:
        print(f"bfc_lightning {__version__}")
        return 0
    name = argv[0]
    if name not in _COMMANDS:
        from bfc_lightning.runs.settings import did_you_mean

        hint = did_you_mean(name, list(_COMMANDS)) or f" Commands: {', '.join(_COMMANDS)}."
        print(f"bfc: error: unknown command {name!r}.{hint}", file=sys.stderr)
        return 2
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for the user's own classes
    if is_process and name in _POOLED and not any(w.startswith(_WITHOUT_RUNS) for w in argv):
        from bfc_lightning.experiments.pool import start_server

        start_server()  # which takes as long to import everything as this process does
    from bfc_lightning.cli.console import run_command

    def command() -> int:
        function = resolve_name(f"bfc_lightning.cli.{_COMMANDS[name]}")
        if is_process:
            gc.freeze()
            gc.enable()
        return int(function(name, argv[1:]))

    return run_command(command)
