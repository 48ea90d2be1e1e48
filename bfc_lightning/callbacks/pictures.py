"""`figures/*.png`: pictures of the run, also in TensorBoard."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from bfc_lightning.activations import Quadratic
from bfc_lightning.callbacks.metrics_file import MetricsFile, read_metrics
from bfc_lightning.callbacks.replica_metrics import ReplicaMetricsFile
from bfc_lightning.figures import (
    feature_residuals,
    leakages,
    learning_curves,
    probe_heat_maps,
    quadratic_forms,
    series,
)
from bfc_lightning.files import replacing
from bfc_lightning.linearized import LinearizedDenseNet
from bfc_lightning.measures.forms import in_target_basis, learner_form, target_form
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.networks import DenseNet
from bfc_lightning.replicas import ReplicatedLearner
from bfc_lightning.targets import HierarchicalTarget

LARGEST_FORM = 128
_DPI = 150


class Pictures(Callback):
    """Draws the figures of the run when it ends.

    Args:
        folder: where the PNGs go; made when needed.
        metrics: the logger that holds the numbers.
        title: of the figures.
    """

    def __init__(
        self, folder: Path, *, metrics: MetricsFile | ReplicaMetricsFile, title: str
    ) -> None:
        self.folder = folder
        self.metrics = metrics
        self.title = title

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the PNGs and shows the figures in TensorBoard."""
        if not trainer.is_global_zero:
            return
        self.metrics.save()
        self.folder.mkdir(exist_ok=True)
        if isinstance(pl_module, ReplicatedLearner):
            figures = self._draw_bands(pl_module)
        else:
            assert isinstance(pl_module, HierarchicalLearner)
            figures = self._draw(trainer, pl_module)
        for name, figure in figures:
            pixels = _render(figure)
            with replacing(self.folder / f"{name}.png") as beside:
                imsave(beside, pixels, format="png")
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    board = logger.experiment
                    board.add_image(name, pixels, trainer.global_step, dataformats="HWC")

    def _draw_bands(self, learner: ReplicatedLearner) -> Iterator[tuple[str, Figure]]:
        """Medians and ranges over the replicas that did not diverge."""
        assert isinstance(self.metrics, ReplicaMetricsFile)
        kept = [number for number, step in enumerate(learner.diverged) if step is None]
        runs = [self.metrics.rows_of(number) for number in kept]
        title = f"{self.title}: {len(runs)} replicas, median and range"
        yield "learning_curves", learning_curves(runs, score_key=learner.score_key, title=title)

    def _draw(self, trainer: Trainer, learner: HierarchicalLearner) -> Iterator[tuple[str, Figure]]:
        """The figures for which the run has numbers."""
        rows = read_metrics(self.metrics.path)
        curves = learning_curves([rows], score_key=learner.score_key, title=self.title)
        yield "learning_curves", curves
        if series(rows, "features/residual_1")[0]:
            yield "feature_residuals", feature_residuals(rows, title=self.title)
            yield "probes", probe_heat_maps(rows, title=f"{self.title}: levels read from layers")
        if series(rows, "features/leakage_weights_1")[0] and series(rows, "levels/nmse")[0]:
            leaks = leakages(rows, title=self.title)
            if leaks is not None:
                yield "leakage", leaks
        target = trainer.datamodule.target  # type: ignore[attr-defined]
        network = learner.network
        has_form = isinstance(network.dense_layers()[0].activation, Quadratic)
        has_form = has_form and not isinstance(network, LinearizedDenseNet)
        if isinstance(target, HierarchicalTarget) and has_form and target.input_dim <= LARGEST_FORM:
            yield "quadratic_form", _forms(network, target, self.title)


def _render(figure: Figure) -> NDArray[np.uint8]:
    """The pixels, drawn once for the file and the board; drawing is what takes the time."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]
    return pixels


@torch.no_grad()
def _forms(network: DenseNet, target: HierarchicalTarget, title: str) -> Figure:
    size = target.widths[0]
    learned = learner_form(network).to(device="cpu", dtype=torch.float64)
    learned, wanted = in_target_basis(learned, target_form(target).cpu(), size)
    return quadratic_forms(
        learned.numpy(),
        wanted.numpy(),
        num_directions=size,
        title=f"{title}: quadratic form of the first level, in the target's own basis",
    )
