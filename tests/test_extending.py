"""What docs/extending.md shows works as it stands there."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from bfc_lightning import load_run
from bfc_lightning.cli import main
from tests.runs import summary

DOCUMENT = Path("docs/extending.md").resolve()


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder that holds the code and the config of the document, and nothing else."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    assert {name for name, _ in blocks} == {
        *("my_targets.py", "my_run.yaml", "my_laws.py", "my_inputs.yaml"),
        *("my_activations.py", "my_measures.py", "my_measures.yaml"),
    }
    small = {"trainer": {"max_steps": 300, "accelerator": "cpu"}, "data": {"batch_size": 128}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_target_of_the_document_is_learned_and_read_back(workplace):
    assert main(["fit", "-c", "my_run.yaml", "-c", "small.yaml"]) == 0
    folder = workplace / "logs" / "my_run"
    assert summary(folder)["metrics"]["val/nmse"] < 0.1
    assert type(load_run(folder).target).__name__ == "Parity"


def test_activation_of_the_document_trains_alike_on_both_paths(workplace):
    words = ["-c", "my_run.yaml", "-c", "small.yaml", "--model.activation", "my_activations.Cubic"]
    words += ["--trainer.precision", "64-true", "--trainer.max_steps", "50", "--model.width", "8"]
    scores = []
    for path in ("fast", "plain"):
        assert main(["fit", *words, "--training_path", path, "--run.name", path]) == 0
        content = summary(workplace / "logs" / path)
        assert content["training_path"] == path
        scores.append(content["metrics"]["val/loss"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


def test_measure_of_the_document_is_logged_beside_ours(workplace, monkeypatch):
    words = ["-c", "my_run.yaml", "-c", "my_measures.yaml", "-c", "small.yaml"]
    words += ["--trainer.max_steps", "20", "--model.width", "8"]
    assert main(["fit", *words]) == 0
    metrics = summary(workplace / "logs" / "my_run")["metrics"]
    assert 0 <= metrics["neurons/dead_1"] < 1
    assert metrics["neurons/dead_2"] * 8 == round(metrics["neurons/dead_2"] * 8)


def test_error_of_ones_own_class_is_one_line(workplace, capsys):
    words = ["fit", "-c", "my_run.yaml", "--target.init_args.order", "99"]
    assert main(words) == 2
    assert capsys.readouterr().err == (
        "bfc: error: target: order must lie between 1 and input_dim, got 99.\n"
    )
    assert not (workplace / "logs").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x[:, 0]", "call estimate_moments at the end of its __init__"),
        ("x\n\n    order = 2", "forward must return one number a sample, shape (n,), got shape"),
        ("x.summ(1)", "'Tensor' object has no attribute 'summ'"),
    ],
)
def test_mistake_in_a_target_of_ones_own_is_told(workplace, capsys, body, message):
    estimate = "pass" if "moments" in message else "self.estimate_moments(0)"
    (workplace / "my_mistakes.py").write_text(
        "from bfc_lightning import Target\n\n\nclass Wrong(Target):\n"
        "    def __init__(self, inputs):\n        super().__init__(inputs)\n"
        f"        {estimate}\n\n    def forward(self, x):\n        return {body}\n"
    )
    sys.modules.pop("my_mistakes", None)
    config = (
        "inputs: {class_path: Gaussian, init_args: {input_dim: 4}}\ntarget: my_mistakes.Wrong\n"
    )
    (workplace / "wrong.yaml").write_text(config)
    assert main(["fit", "-c", "wrong.yaml"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (workplace / "logs").exists()


def test_input_law_of_the_document_makes_a_run(workplace):
    assert main(["fit", "-c", "my_run.yaml", "-c", "my_inputs.yaml", "-c", "small.yaml"]) == 0
    loaded = load_run(workplace / "logs" / "my_run")
    inputs = loaded.data.make_stream("cpu", loaded.target.mean.dtype).batch("val", 0, 4096).inputs
    assert float(inputs.abs().max()) <= 1
    assert float(inputs.var()) == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize("activation", ["torch.nn.ReLU", "torch.tanh", "bfc_lightning.Huber"])
def test_activation_by_import_path_makes_a_run(workplace, activation):
    words = ["fit", "-c", "my_run.yaml", "-c", "small.yaml", "--model.activation", activation]
    assert main([*words, "--trainer.max_steps", "5"]) == 0
    network = load_run(workplace / "logs" / "my_run").network
    name = activation.rsplit(".", 1)[1]
    sigma = network.dense_layers()[0].activation
    assert getattr(sigma, "__name__", type(sigma).__name__) == name
