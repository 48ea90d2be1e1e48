"""What the package takes from inside Lightning and jsonargparse, which they may change."""

import signal

import pytest
from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment

from bfc_lightning import private
from bfc_lightning.cli.options import parse
from bfc_lightning.runs.config import Study
from tests.launches import bfc
from tests.runs import intervene


def make_trainer(**kwargs) -> Trainer:
    flags = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", devices=1, max_steps=1, **flags, **kwargs)


def test_class_that_replaces_another_starts_from_its_own_defaults_and_the_same_does_not(tmp_path):
    config = tmp_path / "sgd.yaml"
    args = "{lr: 0.5, momentum: 0.9, weight_decay: 0.1}"
    config.write_text(f"model: {{optimizer: {{class_path: SGD, init_args: {args}}}}}\n")
    argv = ["-c", "quickstart", "-c", str(config), "--model.optimizer", "AdamW"]
    model = parse([*argv, "--model.lr_scheduler", "LinearLR"], command="validate").config.model
    assert model.optimizer.class_path == "torch.optim.AdamW"
    given = model.optimizer.init_args
    assert (given.lr, given.weight_decay) == (1e-3, 1e-2)
    assert model.lr_scheduler.init_args.start_factor == pytest.approx(1 / 3)
    argv = ["-c", "quickstart", "--model.optimizer", "Adam", "--model.optimizer.eps", "1e-6"]
    optimizer = parse(argv, command="validate").config.model.optimizer
    assert (optimizer.init_args.lr, optimizer.init_args.eps) == (0.007, 1e-6)


def test_keys_whose_type_has_no_null_are_found():
    found = set(private.keys_without_null(Study().parser))
    assert {"seed_everything", "trainer.max_steps", "measures", "model.optimizer"} <= found
    assert found.isdisjoint({"trainer.gradient_clip_val", "model.lr_scheduler", "run.name"})


def test_lightning_handles_no_signals():
    before = signal.getsignal(signal.SIGTERM)
    try:
        trainer = make_trainer()
        trainer._signal_connector.register_signal_handlers()
        assert signal.getsignal(signal.SIGTERM) != before  # so the test can tell
        signal.signal(signal.SIGTERM, before)
        trainer = make_trainer()
        private.leave_signals_alone(trainer)
        trainer._signal_connector.register_signal_handlers()
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_lightning_does_not_requeue_jobs_of_slurm():
    trainer = make_trainer(plugins=[SLURMEnvironment()])
    assert trainer._accelerator_connector.cluster_environment.auto_requeue
    private.leave_signals_alone(trainer)
    assert not trainer._accelerator_connector.cluster_environment.auto_requeue


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(("engine", "count"), [("eager", "3"), ("autograd", "0")])
def test_three_steps_have_no_collective_but_that_of_the_gradients(tmp_path, engine, count):
    """With autograd that is PyTorch's own, which is not counted."""
    watch = intervene("CollectiveCounter", path=tmp_path / "count", first=21, last=24)
    code, output = bfc(2, tmp_path, *watch, "--engine", engine)
    assert code == 0, output
    assert (tmp_path / "count").read_text() == count
