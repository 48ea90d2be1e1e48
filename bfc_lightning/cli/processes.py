"""Which of several processes this one is, by the word of what has started it and of nothing else.

A rank that some other launcher has left in the environment says nothing about this run.
"""

import os

# The first process tells those that it starts where the run lives, and its own number.
FOLDER_VARIABLE = "BFC_RUN_FOLDER"
FIRST_VARIABLE = "BFC_FIRST_PROCESS"
# What SLURM calls jobs that are shells; Lightning takes no process in them for a task.
SHELLS = ("bash", "interactive")
_RANKS = {"torchrun": "RANK", "srun": "SLURM_PROCID", "bfc": "LOCAL_RANK"}


def launcher() -> str | None:
    """What has started this process beside others.

    A job script of SLURM is one process, though SLURM speaks of the job's tasks there; that `srun`
    has started them, only the number of tasks in a step says.

    Returns:
        torchrun, srun, or bfc; None where the user has started it alone.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    is_task = os.environ.get("SLURM_JOB_NAME") not in SHELLS
    if "SLURM_STEP_NUM_TASKS" in os.environ and is_task:
        return "srun"
    return "bfc" if FOLDER_VARIABLE in os.environ else None


def rank() -> int:
    """The number of this process among those that were started together."""
    source = launcher()
    return 0 if source is None else int(os.environ.get(_RANKS[source], 0))


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def num_started() -> int:
    """How many processes torchrun or srun have started with this command."""
    names = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS"}
    return int(os.environ.get(names.get(launcher() or "", ""), 1))


def is_orphan() -> bool:
    """Whether bfc has started this process, and the one that did is gone."""
    first = os.environ.get(FIRST_VARIABLE)
    return launcher() == "bfc" and str(os.getppid()) != first
