"""Which of several processes this one is, before there is a Trainer to ask."""

import os

_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks."""
    return all(int(os.environ.get(name, 0)) == 0 for name in _RANKS)
