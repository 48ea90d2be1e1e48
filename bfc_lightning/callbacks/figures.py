"""`figures/*.png`: figures of the run, also in TensorBoard, Weights & Biases and MLflow."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bfc_lightning.activations import Quadratic
from bfc_lightning.callbacks.run_files import MetricsFile
from bfc_lightning.figures import curves, matrices
from bfc_lightning.figures.style import own_style
from bfc_lightning.files import replacing
from bfc_lightning.measures.forms import in_target_basis, learner_form, target_form
from bfc_lightning.networks import DenseNet
from bfc_lightning.run_module import RunModule, as_run
from bfc_lightning.targets import HierarchicalTarget

_LARGEST_FORM = 128
_DPI = 150


class RunFigures(Callback):
    """Draws the figures of the run when it ends; one that fails is a warning."""

    def __init__(self, folder: Path, *, metrics: MetricsFile, title: str) -> None:
        self.folder = folder
        self.metrics = metrics
        self.title = title

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the PNGs and hands the figures to the loggers."""
        self.folder.mkdir(exist_ok=True)
        try:
            with own_style():
                for name, figure in self._figures(trainer, as_run(pl_module)):
                    self._write(trainer, name, figure)
        except Exception as failed:  # a figure is for show
            warnings.warn(f"figures of {self.title} could not be drawn: {failed}", stacklevel=1)

    def _write(self, trainer: Trainer, name: str, figure: Figure) -> None:
        path, canvas = self.folder / f"{name}.png", FigureCanvasAgg(figure)
        figure.set_dpi(_DPI)
        with replacing(path) as aside:
            canvas.print_png(aside)  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [str(path)], step=trainer.global_step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_artifact(logger.run_id, str(path))

    def _figures(self, trainer: Trainer, module: RunModule) -> Iterator[tuple[str, Figure]]:
        kept = [number for number, step in enumerate(module.diverged) if step is None]
        runs, title = [*map(self.metrics.rows, kept)], self.title
        if len(module.each) > 1:
            title += f": {len(runs)} replicas, median and range"
        score = module.score_key
        yield "learning_curves", curves.learning_curves(runs, score_key=score, title=title)
        if len(module.each) > 1:
            return
        (rows,) = runs
        logged = {key for row in rows for key in row}
        if "features/residual_1" in logged:
            yield "feature_residuals", curves.feature_residuals(rows, title=title)
            levels = f"{title}: levels read from layers"
            yield "probes", matrices.probe_heat_maps(rows, title=levels)
        if "features/procrustes_2" in logged:
            yield "procrustes", curves.procrustes_distances(rows, title=title)
        if {"features/leakage_weights_1", "levels/nmse"} <= logged:
            yield "leakage", curves.leakages(rows, title=title)
        network, target = module.each[0].network, trainer.datamodule.target  # type: ignore[attr-defined]
        if (
            isinstance(network, DenseNet)
            and isinstance(target, HierarchicalTarget)
            and isinstance(network.dense_layers()[0].activation, Quadratic)
            and not network.is_linearized
            and target.input_dim <= _LARGEST_FORM
        ):
            yield "quadratic_form", _forms(network, target, title)


@torch.no_grad()
def _forms(network: DenseNet, target: HierarchicalTarget, title: str) -> Figure:
    size = target.widths[0]
    learned = learner_form(network).to(device="cpu", dtype=torch.float64)
    learned, wanted = in_target_basis(learned, target_form(target).cpu(), size)
    return matrices.quadratic_forms(
        learned.numpy(),
        wanted.numpy(),
        num_directions=size,
        title=f"{title}: quadratic form of the first level, in the target's own basis",
    )
