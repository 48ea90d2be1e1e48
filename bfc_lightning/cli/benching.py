"""`bfc bench`: how fast `bfc fit` is, beside loops that do the same work."""

import io
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.cli.config_files import check_groups
from bfc_lightning.cli.console import rich_table, say
from bfc_lightning.cli.ends import ended
from bfc_lightning.cli.many_runs import PlainHelp
from bfc_lightning.cli.refusals import parsing
from bfc_lightning.experiments.bench.rounds import CONTESTANTS, Name
from bfc_lightning.runs.folder import RunError

if TYPE_CHECKING:
    from bfc_lightning.experiments.bench.running import Record, Size

DESCRIPTION = """\
Times the training step of `bfc fit` beside loops that do the same work, which take turns in this
process:

    fit        bfc fit with logging, bar, checkpoints and validation
    fit_plain  the same with --training_path plain
    replicas   the same with many seeds in one process, a step of one of them; with --replicas
    bare       an eager PyTorch loop without any of these
    compiled   the same, compiled
    jax        the whole run in one jitted lax.scan (the extra `bench`)
    limit      the step's matrix products alone, and drawing the batch

A size is a config of `bfc fit`; see configs/bench. Without -c: tiny, small and large, on the CPU.

    bfc bench                                                  all three
    bfc bench -c configs/bench/small.yaml --rounds 9           one of them, more often
    bfc bench -c configs/bench/tiny_gpu.yaml -c configs/bench/small_gpu.yaml

It leaves, in <run.root>/<run.name>/: bench.json (every time, the machine, all settings), bench.md
(the tables). On a machine that does something else, too, its numbers mean little.
Exit status: 0 done, 2 a mistake in the input, 4 out of memory, 130 and 143 stopped by a signal, 1
else.
"""
_CONFIGS = tuple(f"configs/bench/{name}.yaml" for name in ("tiny", "small", "large"))


def bench_command(words: Sequence[str]) -> int:
    """Runs `bfc bench`.

    Args:
        words: its arguments.

    Returns:
        The exit status.
    """

    def run() -> int:
        with parsing():
            given = _parser().parse_args(list(words))
            check_groups(given, ("run",))
        for name in ("rounds", "steps", "replicas"):
            if given[name] is not None and given[name] < 1:
                raise RunError(f"{name} must be at least 1, got {given[name]}.")
        return _run(given, command=f"bfc bench {shlex.join(words)}".rstrip())

    return ended(run)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="bfc bench", exit_on_error=False, description=DESCRIPTION, formatter_class=PlainHelp
    )
    parser.add_argument("-c", "--config", action="append", help="A size; may be given again.")
    parser.add_argument("--rounds", type=int, default=5, help="How often everyone has a turn.")
    parser.add_argument(
        "--steps", type=int | None, default=None, help="Of a run, in place of trainer.max_steps."
    )
    parser.add_argument(
        "--replicas",
        type=int | None,
        default=None,
        help="Time `bfc fit --model.num_replicas` of this number, too.",
    )
    parser.add_argument(
        "--contestants",
        type=list[Name],
        default=list(CONTESTANTS),
        help="Who takes part.",
    )
    parser.add_argument("--run.name", type=str | None, default=None, help="Of the folder.")
    parser.add_argument("--run.root", default="logs", help="The folder that it is put in.")
    parser.add_argument(
        "--run.overwrite", type=bool, default=False, help="Replace the results of this name."
    )
    return parser


def _run(given: Namespace, *, command: str) -> int:
    """Does it, once the words are understood."""
    from bfc_lightning.cli.bench_sizes import read_sizes
    from bfc_lightning.experiments.bench.fitting import STOPPED_BY_SIGNAL, FitEnded
    from bfc_lightning.experiments.bench.running import Record, time_size
    from bfc_lightning.experiments.own_folder import locked

    folder = _folder(given)
    sizes = read_sizes(given.config or _CONFIGS, given.steps)
    with locked(folder):
        record = Record(folder, command=command, num_rounds=given.rounds)
        record.write()
        try:
            for size in sizes:
                time_size(
                    size,
                    record,
                    names=given.contestants,
                    num_replicas=given.replicas,
                    run_fit=_run_fit,
                    told=say,
                )
                _show(record, size)
        except FitEnded as stop:
            say("stopped." if stop.exit_status in STOPPED_BY_SIGNAL else f"error: {stop}")
            return stop.exit_status
        record.finish()
    print("files:", *(folder / name for name in record.files), flush=True)
    return 0


def _folder(given: Namespace) -> Path:
    """Where the results are put; without a name, -2, -3, ... is added where that is taken.

    Raises:
        RunError: if the name is no plain folder name, or taken.
    """
    stems = [Path(config).stem for config in given.config or []]
    name = "-".join(["bench", *stems]) if given.run.name is None else given.run.name
    if name in ("", ".", "..") or Path(name).name != name:
        raise RunError(f"run.name must be a plain folder name, got {name!r}.")
    folder = Path(given.run.root) / name
    if given.run.name is None and not given.run.overwrite:
        number = 1
        while folder.exists():
            number += 1
            folder = folder.with_name(f"{name}-{number}")
    if folder.exists() and not (given.run.overwrite and (folder / "bench.json").is_file()):
        raise RunError(
            f"run.name must be free in {folder.parent}, got {name!r}, which is taken: choose "
            "another, or replace results of bfc bench by --run.overwrite true."
        )
    return folder


def _run_fit(words: Sequence[str]) -> int:
    """Runs `bfc fit` in this process; its bar goes to the terminal, its table nowhere.

    Where stderr is no terminal, it is kept back, and shown if the run fails.
    """
    from bfc_lightning.cli import main
    from bfc_lightning.experiments.bench.fitting import STOPPED_BY_SIGNAL

    printed = io.StringIO()
    with ExitStack() as redirected:
        redirected.enter_context(redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            redirected.enter_context(redirect_stderr(printed))
        status = main(["fit", *words])
    if status and status not in STOPPED_BY_SIGNAL:
        print(printed.getvalue(), end="", file=sys.stderr)
    return status


def _show(record: "Record", size: "Size") -> None:
    """Prints the table of a size."""
    from rich.console import Console

    from bfc_lightning.experiments.bench.report import about, table

    name = size.workload.name
    content = record.content["sizes"][name]
    print(f"\n{about(name, content)}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # no lines are broken in a file
    console.print(rich_table(*table(content), num_names=1))
