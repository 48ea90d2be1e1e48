"""Going on where a run stopped: which checkpoint, in which folder, and whether it may."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bfc_lightning.callbacks.checkpoints import LAST, PREVIOUS, RECORD_KEY
from bfc_lightning.data import check_same_tensors
from bfc_lightning.replicas import AnyData
from bfc_lightning.runs.folder import CHECKPOINTS, RunError, RunOptions, find_checkpoint
from bfc_lightning.runs.identity import (
    DamagedCheckpointError,
    check_resumable,
    read_checkpoint,
)


@dataclass
class Resumption:
    """What a run goes on from.

    Attributes:
        folder: an existing folder that is the run's own; None where a new one must be made.
        checkpoint: the file; None where the run starts afresh.
        content: of the checkpoint.
        warning: why it is not the last checkpoint; empty where it is.
    """

    folder: Path | None = None
    checkpoint: Path | None = None
    content: dict[str, Any] = field(default_factory=dict)
    warning: str = ""

    @property
    def step(self) -> int | None:
        """Rows of the run's files after this step are dropped; None where there are no files."""
        if self.checkpoint is not None:
            return int(self.content["global_step"])
        return None if self.folder is None else -1

    def check(self, identity: Mapping[str, Any], data: AnyData, *, has_open_schedule: bool) -> None:
        """Refuses to go on with other settings or another target.

        Args:
            identity: of this run.
            data: holds the target that was made from the settings.
            has_open_schedule: whether the run's length changes its first steps.

        Raises:
            RunError: if it may not.
        """
        if self.checkpoint is None:
            return
        stored = self.content[RECORD_KEY]["identity"]
        check_resumable(stored, identity, has_open_schedule=has_open_schedule)
        saved = self.content[type(data).__qualname__]
        try:
            check_same_tensors(saved["problem"], data.state_dict()["problem"])
        except ValueError as other:
            raise RunError(str(other)) from other

    def check_device(self, device: str) -> None:
        """Refuses to go on where the sample stream is another one.

        Args:
            device: the type of the device, e.g. `cpu`.

        Raises:
            RunError: if the run was on another one.
        """
        if self.checkpoint is None:
            return
        stored = self.content[RECORD_KEY]["environment"]["device"]
        if stored != device:
            raise RunError(
                f"trainer.accelerator must stay that of the run, {stored}, got {device}: samples "
                "drawn on another type of device are other samples."
            )

    def changes(self, environment: Mapping[str, Any]) -> list[str]:
        """What of the surroundings differs, so that numbers are equal only to rounding.

        Args:
            environment: of this run.

        Returns:
            One clause for each difference.
        """
        if self.checkpoint is None:
            return []
        # What there was before there was a choice.
        former = {"training_path": "plain", "large_products": "default"}
        stored = {**former, **self.content[RECORD_KEY]["environment"]}
        return [
            f"{name} {here!r} instead of {stored.get(name)!r}"
            for name, here in environment.items()
            if stored.get(name) != here
        ]


def find_resumption(resume: str, folder: Path, options: RunOptions) -> Resumption:
    """Finds what `--resume` means.

    Args:
        resume: `auto`, or the path of a checkpoint or run folder.
        folder: where the run lives by its name or config.
        options: the user's.

    Returns:
        `auto`: the folder and its last checkpoint, as far as there are any, or the one before where
        the last one is damaged or missing. A path: the checkpoint, with its own folder unless the
        run has another name.

    Raises:
        RunError: if the checkpoint is missing or not ours, or the folder would be deleted.
    """
    if options.overwrite:
        raise RunError("run.overwrite must be false with --resume, got true.")
    if resume == "auto":
        return _find_latest(folder)
    checkpoint = find_checkpoint(resume, folder)
    own = _own_folder(checkpoint)
    if own is not None and options.name is not None and own.resolve() != folder.resolve():
        own = None
    return Resumption(own, checkpoint, _read_whole_state(checkpoint))


def _find_latest(folder: Path) -> Resumption:
    """The last checkpoint of a folder that is whole.

    Raises:
        RunError: if there are some, and none is.
    """
    last, previous = (folder / CHECKPOINTS / name for name in (LAST, PREVIOUS))
    if last.is_file():
        try:
            return Resumption(folder, last, _read_whole_state(last))
        except DamagedCheckpointError as damaged:
            if not previous.is_file():
                raise RunError(
                    f"{damaged} There is none before it: --run.overwrite true starts afresh."
                ) from damaged
            warning = str(damaged)
    elif previous.is_file():
        warning = f"there is no {last}."
    else:
        return Resumption(folder if folder.is_dir() else None)
    content = _read_whole_state(previous)
    return Resumption(folder, previous, content, f"{warning} Going back to {previous}.")


def _read_whole_state(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint that one can go on from.

    Raises:
        RunError: if it holds weights only.
    """
    content = read_checkpoint(checkpoint)
    if "optimizer_states" not in content:
        raise RunError(
            f"the checkpoint must hold the state of an optimizer, got {checkpoint}: of seeds that "
            "were trained together only last.ckpt does."
        )
    return content


def _own_folder(checkpoint: Path) -> Path | None:
    is_in_run = checkpoint.parent.name == CHECKPOINTS
    return checkpoint.parent.parent if is_in_run else None
