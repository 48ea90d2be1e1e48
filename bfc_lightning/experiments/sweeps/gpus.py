"""A GPU of its own for each worker."""

import os

import torch

from bfc_lightning.experiments.sweeps.sweep import Sweep

VARIABLE = "CUDA_VISIBLE_DEVICES"
_GPU = ("gpu", "cuda")


def worker_environments(sweep: Sweep, accelerators: set[str]) -> list[dict[str, str]]:
    """What tells each worker which GPU is its own.

    Args:
        sweep: what is swept.
        accelerators: that its runs ask for, as in `trainer.accelerator`.

    Returns:
        Variables for each worker, by default one worker a GPU; with more `workers` than GPUs,
        several share one. None where no run asks for a GPU, or there is no CUDA device.
    """
    asks = accelerators & {*_GPU, "auto"}
    count = torch.cuda.device_count() if asks else 0
    if not count:
        return []
    named = os.environ.get(VARIABLE)
    gpus = named.split(",")[:count] if named else [str(number) for number in range(count)]
    return [{VARIABLE: gpus[worker % count]} for worker in range(sweep.workers or count)]
