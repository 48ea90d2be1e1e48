"""`figures/*.png`: pictures of the run, also in TensorBoard."""

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from bfc_lightning.callbacks.metrics_file import MetricsFile, read_metrics
from bfc_lightning.figures import learning_curves


class Pictures(Callback):
    """Draws the learning curves of the run when it ends.

    Args:
        folder: where the PNG goes; made when needed.
        metrics: the logger that holds the numbers.
        title: of the figure.
    """

    def __init__(self, folder: Path, *, metrics: MetricsFile, title: str) -> None:
        self.folder = folder
        self.metrics = metrics
        self.title = title

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `learning_curves.png` and shows it in TensorBoard."""
        if not trainer.is_global_zero:
            return
        self.metrics.save()
        rows = read_metrics(self.metrics.path)
        figure = learning_curves(rows, score_key=str(pl_module.score_key), title=self.title)
        self.folder.mkdir(exist_ok=True)
        figure.savefig(self.folder / "learning_curves.png", dpi=150)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("learning_curves", figure, trainer.global_step)
