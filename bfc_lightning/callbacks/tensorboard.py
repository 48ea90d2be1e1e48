"""TensorBoard: scalars, and an HParams tab that shows the real metrics."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch.utils.tensorboard.summary import hparams as hparams_summary


class RunBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing straight into the run folder.

    Args:
        folder: the run folder.
        resume_step: events past this step are hidden; None starts afresh.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        purge_step = None if resume_step is None else resume_step + 1
        super().__init__(
            save_dir=folder, name="", version="", default_hp_metric=False, purge_step=purge_step
        )

    @rank_zero_only
    def announce(
        self, hyperparameters: Mapping[str, bool | str | float | int], metrics: Sequence[str]
    ) -> None:
        """Fills the HParams tab: these settings, judged by these metrics.

        Args:
            hyperparameters: flat settings.
            metrics: names under which the run will log its results.
        """
        settings, judged = dict(hyperparameters), dict.fromkeys(metrics, 0.0)
        summaries = hparams_summary(settings, judged)  # type: ignore[no-untyped-call]
        for summary in summaries:
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def announce_bands(self, keys: Sequence[str]) -> None:
        """Fills the Custom Scalars tab: medians over replicas with a band from low to high.

        Args:
            keys: under which medians are logged, with `low/KEY` and `high/KEY` beside them.
        """
        charts = {key: ["Margin", [key, f"low/{key}", f"high/{key}"]] for key in keys}
        self.experiment.add_custom_scalars({"median and range of the replicas": charts})

    @rank_zero_only
    def save(self) -> None:
        """Flushes the events; `config.yaml` already holds what Lightning would write here."""
        self.experiment.flush()


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Keeps the threads that write events from printing a traceback, of a full disk for example.

    What fails in one is raised by the next call of its logger all the same.

    Yields:
        While the block runs.
    """
    before = threading.excepthook

    def tell(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.thread, _AsyncWriterThread):
            before(failed)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before
