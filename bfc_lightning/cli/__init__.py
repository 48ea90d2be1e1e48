"""The command line: `bfc`. Only what a command uses is imported, so that help is quick."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module

from bfc_lightning.cli.processes import is_first_process, num_started

USAGE = """\
usage: bfc COMMAND [-c CONFIG.yaml ...] [--key value ...]

Train over-parameterized DenseNets on layered targets, and watch the layers correct each other.

commands:
  fit        train a learner: bfc fit -c configs/quickstart.yaml
  validate   score a checkpoint on the validation samples: --ckpt_path best|last|PATH
  test       score a checkpoint on 32,768 samples that training never touches
  predict    write inputs, targets and predictions to predictions.npz
  baseline   kernels and other rivals on the same problem: --baseline KernelRidge
  compare    several learners, seeds and targets: bfc compare -c configs/compare/schemes.yaml
  sweep      one learner at many settings and seeds: bfc sweep -c configs/sweep/gap.yaml
  claims     sentences of the theory, run to a verdict: bfc claims --profile quick
  bench      speed of fit beside bare loops in PyTorch and JAX, and beside the machine's limit

often used with fit:
  -c FILE                 a config; a later one overrides an earlier one
  --seed_everything N     the seed of the run: inputs, target, start and samples follow from it
  --run.name NAME         name of the run folder, logs/NAME
  --run.overwrite true    delete the run of that name first
  --resume auto|PATH      go on from the last checkpoint
  --any.key value         any key of the config, e.g. --trainer.max_steps 2000

  bfc COMMAND --help      every key of a command
  bfc --version           the version

exit status: 0 done, 2 a mistake in the input, 3 diverged, 4 out of memory, 130 and 143 stopped by a
signal, 1 else.
"""
_SHARED = ("fit", "validate", "test", "predict")
_OWN = {
    "baseline": ("baseline", "baseline_command"),
    "compare": ("comparing", "compare_command"),
    "sweep": ("sweeping", "sweep_command"),
    "claims": ("claiming", "claims_command"),
    "bench": ("benching", "bench_command"),
}
_COMMANDS = (*_SHARED, *_OWN)


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: the words after `bfc`; those of the process by default.

    Returns:
        The exit status: 0 done, 2 a mistake of the user, 3 diverged, 130 or 143 by a signal.
    """
    if args is None:
        return _run(sys.argv[1:])
    before = signal.getsignal(signal.SIGTERM)
    try:
        return _run(list(args))
    finally:  # a process that is about to end ignores it
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _run(words: list[str]) -> int:
    started = time.time()
    if not words or words[0] in ("-h", "--help", "--version"):
        if is_first_process():
            print(_version() if words[:1] == ["--version"] else USAGE, end="")
        return 0
    if words[0] not in _COMMANDS:
        known = ", ".join(_COMMANDS)
        return _refuse(f"the command must be one of {known}, got {words[0]!r}.")
    if words[0] not in _SHARED and num_started() > 1:
        return _refuse(f"bfc {words[0]} must be started once, got {num_started()} processes.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's own classes, by class_path
    if words[0] in _OWN:
        module, name = _OWN[words[0]]
        command = getattr(import_module(f"bfc_lightning.cli.{module}"), name)
        return int(command(words[1:]))
    from bfc_lightning.cli.application import run_command

    return run_command(words, started)


def _version() -> str:
    from importlib.metadata import version

    return f"bfc_lightning {version('bfc_lightning')}\n"


def _refuse(mistake: str) -> int:
    if num_started() == 1:
        print(f"bfc: error: {mistake}", file=sys.stderr)
        return 2
    from bfc_lightning.cli.together import refuse_together

    return refuse_together(mistake)
