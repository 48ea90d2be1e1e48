"""The sizes of `bfc bench`: configs of `bfc fit`, made into what every contestant trains."""

import logging
import time
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace

from bfc_lightning.cli.application import Application
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.refusals import refusing
from bfc_lightning.cli.trainer_flags import validation_interval
from bfc_lightning.experiments.bench.running import Size
from bfc_lightning.experiments.bench.workload import Workload, check_problem
from bfc_lightning.runs.folder import RunError
from bfc_lightning.targets import HierarchicalTarget

_DTYPES = {None: torch.float32, "32-true": torch.float32, "64-true": torch.float64}
_DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda"}


class BenchApplication(Application):
    """Parses what `bfc fit` would be told, and builds the problem, but no Trainer.

    Args:
        words: after `bfc fit`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # names the seed each time
        super().__init__(["fit", *words], time.time())

    def prepare(self, mine: Namespace) -> None:
        """Nothing: there is no run folder."""

    def instantiate_classes(self) -> None:
        """Builds target, learner and scheme."""
        with refusing():
            self.config_init = self.parser.instantiate(self.resolved)

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""

    def size(self, name: str, num_steps: int | None) -> Size:
        """What is to be timed.

        Args:
            name: of the size.
            num_steps: of a run; those of the config if not given.

        Returns:
            The size, one that the rivals of `bfc fit` can train, too.
        """
        settings = self.resolved.fit
        flags, data = settings.trainer, self._get(self.config_init, "data")
        learner, scheme = (
            self._get(self.config_init, "model"),
            self._get(self.config_init, "scheme"),
        )
        check_problem(learner, target=data.target, labels=data.labels, scheme=scheme)
        assert isinstance(data.target, HierarchicalTarget)
        _require("num_measures", "0", settings.num_measures, holds=settings.num_measures == 0)
        samples = data.num_train_samples
        _require("data.num_train_samples", "left out", samples, holds=samples is None)
        device, dtype = _device_and_dtype(flags)
        steps = flags.max_steps if num_steps is None else num_steps
        workload = Workload(
            name=name,
            target=data.target.to(device=device, dtype=dtype),
            learner=learner,
            batch_size=data.batch_size,
            num_steps=steps,
            interval=_interval(flags, steps),
            clip_norm=float(flags.gradient_clip_val),
            threads=torch.get_num_threads(),
        )
        return Size(workload, self.words, self._plain(steps))

    @property
    def words(self) -> list[str]:
        """What `bfc fit` is told."""
        return [word for file in self.config.fit.config for word in ("-c", str(file))]

    def _plain(self, num_steps: int) -> dict[str, Any]:
        """Every setting, seeds filled in, as plain data."""
        parser = self._parser("fit")
        settings = self.resolved.fit.clone()
        settings.pop("config", None)
        settings.trainer.max_steps = num_steps
        plain: dict[str, Any] = yaml.safe_load(parser.dump(settings, skip_unset=False))
        return plain


def _device_and_dtype(flags: Namespace) -> tuple[str, torch.dtype]:
    """Where and in which precision, if the Trainer's flags ask for nothing that rivals do not do.

    Raises:
        RunError: if there is no such device.
    """
    precision = None if flags.precision is None else str(flags.precision)
    clip, algorithm = flags.gradient_clip_val, flags.gradient_clip_algorithm
    accumulate = flags.accumulate_grad_batches
    _require(
        "trainer.accelerator", "cpu or gpu", flags.accelerator, holds=flags.accelerator in _DEVICES
    )
    _require("trainer.precision", "32-true or 64-true", precision, holds=precision in _DTYPES)
    _require("trainer.gradient_clip_val", "positive", clip, holds=(clip or 0) > 0)
    _require(
        "trainer.gradient_clip_algorithm", "norm", algorithm, holds=algorithm in (None, "norm")
    )
    _require("trainer.accumulate_grad_batches", "1", accumulate, holds=accumulate == 1)
    device = _DEVICES[flags.accelerator]
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError(
            f"trainer.accelerator must be there, got {flags.accelerator}: PyTorch sees no GPU."
        )
    return device, _DTYPES[precision]


def _require(key: str, rule: str, given: object, *, holds: bool) -> None:
    if not holds:
        raise RunError(f"{key} must be {rule} in bfc bench, got {given}.")


def _interval(flags: Namespace, num_steps: int) -> int:
    """Steps between two validations, at least two of which belong to a run.

    Raises:
        RunError: if the run has fewer, or they are counted in another way.
    """
    given = flags.val_check_interval
    interval = validation_interval(given, max_steps=num_steps, accumulate=1)
    if not isinstance(interval, int):
        raise RunError(f"trainer.val_check_interval must count steps in bfc bench, got {given}.")
    if num_steps < 2 * interval:
        raise RunError(
            f"steps must be at least twice trainer.val_check_interval = {interval}, whose second "
            f"stretch is timed, got {num_steps}."
        )
    return interval


def read_sizes(configs: Sequence[str], num_steps: int | None) -> list[Size]:
    """The sizes that configs describe, checked before any of them is run.

    Args:
        configs: files, one a size; the file's name is the size's.
        num_steps: of a run, in place of each config's own.

    Returns:
        The sizes.

    Raises:
        RunError: if one is missing, stands twice, or can't be timed; it names the config.
    """
    names = [Path(config).stem for config in configs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RunError(f"configs must have different names, got {twice[0]} twice.")
    threads = torch.get_num_threads()
    sizes = []
    for name, config in zip(names, configs, strict=True):
        if not Path(config).is_file():
            raise RunError(f"config must be a file, got {config}.")
        torch.set_num_threads(threads)
        try:
            sizes.append(BenchApplication(["-c", config]).size(name, num_steps))
        except (ArgumentError, RunError) as refused:
            raise RunError(f"{config}: {one_line(str(refused))}") from refused
    return sizes
