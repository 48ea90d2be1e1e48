"""The code and the configs in docs/extending.md work as they are printed there."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from bfc_lightning import load_run
from bfc_lightning.cli import main
from tests.runs import error_line, summary

DOCUMENT = Path("docs/extending.md").resolve()
SMALL = ["fit", "-c", "my_run.yaml", "-c", "small.yaml"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with the code and the configs of the document."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    small = {"trainer": {"max_steps": 20, "accelerator": "cpu"}, "data": {"batch_size": 128}}
    small |= {"run": {"figures": False}, "num_measures": 4}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_target_is_learned_and_read_back(folder):
    assert main([*SMALL, "--trainer.max_steps", "300"]) == 0
    run = folder / "logs" / "my_run"
    assert summary(run)["metrics"]["val/nmse"] < 0.1
    assert type(load_run(run).target).__name__ == "Parity"


def test_activation_trains_alike_with_every_engine(folder):
    argv = [*SMALL, "--model.activation", "my_activations.Cubic", "--model.width", "8"]
    argv += ["--trainer.precision", "64-true", "--trainer.max_steps", "50", "--num_measures", "0"]
    scores = []
    for engine in ("eager", "autograd"):
        assert main([*argv, "--engine", engine, "--run.name", engine]) == 0
        content = summary(folder / "logs" / engine)
        assert content["engine"] == engine
        scores.append(content["metrics"]["val/loss"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


def test_measure_is_logged_beside_ours(folder):
    assert main([*SMALL, "-c", "my_measures.yaml", "--model.width", "8"]) == 0
    metrics = summary(folder / "logs" / "my_run")["metrics"]
    assert 0 <= metrics["neurons/dead_1"] < 1
    assert metrics["neurons/dead_2"] * 8 == round(metrics["neurons/dead_2"] * 8)


def test_input_distribution_makes_a_run(folder):
    assert main([*SMALL, "-c", "my_inputs.yaml"]) == 0
    loaded = load_run(folder / "logs" / "my_run")
    inputs = loaded.data.make_stream("cpu", loaded.target.mean.dtype).batch("val", 0, 4096).inputs
    assert float(inputs.abs().max()) <= 1
    assert float(inputs.var()) == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize("activation", ["torch.nn.ReLU", "torch.tanh", "bfc_lightning.Huber"])
def test_activation_by_import_path_makes_a_run(folder, activation):
    assert main([*SMALL, "--model.activation", activation, "--trainer.max_steps", "5"]) == 0
    sigma = load_run(folder / "logs" / "my_run").network.dense_layers()[0].activation
    assert getattr(sigma, "__name__", type(sigma).__name__) == activation.rsplit(".", 1)[1]


def test_error_in_a_users_class_is_one_line(folder, capsys):
    assert main([*SMALL, "--target.init_args.order", "99"]) == 2
    message = error_line(capsys.readouterr().err)
    assert message == "order must lie between 1 and input_dim, got 99."
    assert not (folder / "logs").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x[:, 0]", "estimate_moments"),
        ("x\n\n    order = 2", "shape (n,)"),
        ("x.summ(1)", "'Tensor' object has no attribute 'summ'"),
    ],
)
def test_bug_in_a_users_target_is_one_line(folder, capsys, body, message):
    estimate = "pass" if message == "estimate_moments" else "self.estimate_moments(0)"
    (folder / "my_mistakes.py").write_text(
        "from bfc_lightning import Target\n\n\nclass Wrong(Target):\n"
        "    def __init__(self, inputs):\n        super().__init__(inputs)\n"
        f"        {estimate}\n\n    def forward(self, x):\n        return {body}\n"
    )
    sys.modules.pop("my_mistakes", None)
    config = "inputs: {class_path: Gaussian, init_args: {input_dim: 4}}\n"
    (folder / "wrong.yaml").write_text(f"{config}target: my_mistakes.Wrong\n")
    assert main(["fit", "-c", "wrong.yaml"]) == 2
    assert message in error_line(capsys.readouterr().err)
    assert not (folder / "logs").exists()
