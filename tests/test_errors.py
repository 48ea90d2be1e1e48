"""Mistakes in the input: one line that names key, rule and value; exit 2; no folder left."""

import pytest

from bfc_lightning.cli import main
from tests.runs import TINY, fit

MISTAKES = {
    "unknown key": (["--model.widht", "3"], r"--model.widht 3"),
    "wrong type": (["--model.width", "many"], r"model.width: expected int .* got many"),
    "widths that grow": (
        ["--target.init_args.widths", "[3, 9]"],
        r"target: widths must not grow from input_dim = 8 upwards, got \[3, 9\]",
    ),
    "gaps of the wrong length": (
        ["--target.init_args.level_scales", "[1, 0.5, 0.2]"],
        r"target: level_scales must hold one number for each of the 2 levels, got 3",
    ),
    "covariance that is not positive": (
        ["--inputs.init_args.eigenvalues", "[1, 1, 1, 1, 1, 1, 1, -1]"],
        r"inputs: eigenvalues must all be positive .* got -1",
    ),
    "batch that the shards do not divide": (
        ["--data.batch_size", "30"],
        r"batch_size must be a positive multiple of num_shards = 4, got 30",
    ),
    "shards that the processes do not divide": (
        ["--trainer.devices", "3"],
        r"data.num_shards must be a multiple of the number of processes, 3, got 4",
    ),
    "missing config": (["-c", "nowhere.yaml"], r"config: .*nowhere.yaml"),
    "missing checkpoint": (["--resume", "nowhere.ckpt"], r"checkpoint must exist, got 'nowhere"),
    "foreign checkpoint": (["--resume", "pyproject.toml"], r"checkpoint must be readable, got"),
    "unknown target": (["--target", "Nope"], r"target: .*Nope"),
    "unknown activation": (["--model.activation", "torch.nn.Nope"], r"model.activation: .*Nope"),
    "learner without layers": (["--model.depth", "0"], r"depth must be at least 1, got 0"),
    "penalties of the wrong length": (
        ["--model.regularization", "[1, 2, 3]"],
        r"regularization must be one number or one for each of 2 layers",
    ),
    "optimizer that refuses its rate": (
        ["--model.optimizer", "SGD", "--model.optimizer.lr", "-1"],
        r"model.optimizer .*Invalid learning rate: -1",
    ),
    "schedule that follows a metric": (
        ["--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"],
        r"lr_scheduler must follow the steps, got ReduceLROnPlateau",
    ),
    "logging at no interval": (
        ["--trainer.log_every_n_steps", "0"],
        r"trainer.log_every_n_steps must be at least 1, got 0",
    ),
    "validation that is left out": (
        ["--trainer.limit_val_batches", "0"],
        r"trainer.limit_val_batches must be left out, got 0",
    ),
    "target in half precision": (
        ["--trainer.precision", "bf16-true"],
        r"trainer.precision must leave the samples exact, got bf16-true",
    ),
    "precision that a CPU lacks": (
        ["--trainer.precision", "16-mixed"],
        r"trainer.precision must be one that a CPU has, got 16-mixed: take bf16-mixed",
    ),
    "activation that changes the shape": (
        ["--model.activation", "torch.nn.GLU"],
        r"activation must keep the shape \(2, 4\), got \(2, 2\)",
    ),
    "metric that never comes": (
        ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/acc"],
        r"monitor must be val/nmse or val/loss, got 'val/acc'",
    ),
    "negative seed": (["--seed_everything", "-1"], r"seed_everything must lie in .* got -1"),
    "target that is constant": (
        ["--target.init_args.weights", str([[[[0] * 8] * 3], [[[0] * 8] * 2, [[0] * 3] * 2]])],
        r"target must have a positive, finite variance",
    ),
    "mean that is no number": (
        ["--inputs.init_args.mean", ".nan"],
        r"mean must be finite, got nan",
    ),
    "validation within a step": (
        ["--trainer.accumulate_grad_batches", "3"],
        r"val_check_interval .* multiple of trainer.accumulate_grad_batches = 3, got 20",
    ),
    "less than no measures": (["--num_measures", "-1"], r"num_measures.*v>=0"),
    "more measures than can be listed": (
        ["--num_measures", "1000000000"],
        r"num_measures must be at most 100,000, got 1000000000",
    ),
    "number in the place of a group": (
        ["--model", "3"],
        r"model: must be a mapping of settings, got '3'",
    ),
    "argument of a class": (
        ["--target.init_args.weights", "x"],
        r"target.init_args.weights: expected list, got x",
    ),
    "key that is no word": (
        ["--replica_overrides", "[{3: 4}]"],
        r"replica_overrides",
    ),
    "no threads": (["--run.threads", "0"], r"run.threads must be at least 1, got 0"),
    "epochs": (["--trainer.max_epochs", "3"], r"trainer.max_epochs must be left out, got 3"),
    "no steps": (["--trainer.max_steps", "-1"], r"trainer.max_steps must be at least 1, got -1"),
    "device that is not there": (["--trainer.accelerator", "tpu"], r"xla"),
    "name with a slash": (
        ["--run.name", "a/b"],
        r"run.name must be a plain folder",
    ),
    "overwriting what is resumed": (
        ["--run.overwrite", "true", "--resume", "auto"],
        r"run.overwrite must be false with --resume, got true",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line_and_leaves_nothing(mistake, tmp_path, capsys):
    words, message = MISTAKES[mistake]
    assert fit(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("bfc: error: ")
    assert error.count("\n") == 1
    assert len(error) < 400
    assert __import__("re").search(message, error), error
    assert not list(tmp_path.iterdir())


def test_folders_above_a_refused_run_are_taken_away_again(tmp_path, capsys):
    root = tmp_path / "some" / "where"
    timer = "[{class_path: Timer, init_args: {duration: soon}}]"  # refused once the folder is made
    assert fit(root, "--trainer.callbacks", timer, "--trainer.devices", "3") == 2
    assert not list(tmp_path.iterdir())
    root.mkdir(parents=True)
    assert fit(root, "--trainer.devices", "3") == 2
    assert root.is_dir()


def test_lack_of_memory_is_one_line_with_a_status_of_its_own(tmp_path, capsys):
    assert fit(tmp_path, "--model.width", str(10**12)) == 4
    error = capsys.readouterr().err
    assert error.startswith("bfc: out of memory: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_taken_name_is_an_error_that_says_what_to_do(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert fit(tmp_path, "--run.name", "mine") == 2
    error = capsys.readouterr().err
    assert "run.name must be free" in error
    assert "--run.overwrite true" in error
    assert "--resume auto" in error


def test_overwrite_keeps_the_old_run_until_the_new_one_is_sure_to_start(tmp_path, capsys):
    assert fit(tmp_path, "--run.name", "mine", "--trainer.max_steps", "2") == 0
    before = (tmp_path / "mine" / "metrics.csv").read_text()
    words = ["--run.name", "mine", "--run.overwrite", "true", "--trainer.devices", "3"]
    assert fit(tmp_path, *words) == 2
    assert (tmp_path / "mine" / "metrics.csv").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_overwrite_deletes_run_folders_only(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert fit(tmp_path, "--run.name", "mine", "--run.overwrite", "true") == 2
    assert "run.overwrite deletes run folders only" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize("begun", [[], ["checkpoints/"], ["checkpoints/", ".config.yaml.17.tmp"]])
def test_folder_of_a_run_that_was_killed_before_its_config_may_be_overwritten(tmp_path, begun):
    (tmp_path / "mine").mkdir()
    for name in begun:
        path = tmp_path / "mine" / name
        path.mkdir() if name.endswith("/") else path.write_text("half")
    words = ["--run.overwrite", "true", "--trainer.max_steps", "2"]
    assert fit(tmp_path, "--run.name", "mine", *words) == 0
    assert (tmp_path / "mine" / "checkpoints" / "last.ckpt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("file", ["checkpoints/mine.ckpt", "checkpoints"])
def test_folder_that_only_looks_like_a_begun_run_is_not_overwritten(tmp_path, capsys, file):
    path = tmp_path / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    assert fit(tmp_path, "--run.name", "mine", "--run.overwrite", "true") == 2
    assert "run.overwrite deletes run folders only" in capsys.readouterr().err
    assert path.read_text() == "precious"


def test_unwritable_root_is_an_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["fit", "-c", TINY, "--run.root", str(tmp_path / "file" / "logs")]) == 2
    assert "run.root must be a folder that can be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold keys and values, got None"),
        (b"- a\n- b\n", "must hold keys and values"),
        (b"model: {width: 8\ndata: 3\n", "line 2: expected ',' or '}'"),
        (b"model: {}\ntarget: {}\nmodel: {}\n", "line 3: the key 'model' stands twice"),
        (b"\xff\xfe\x00", "must be YAML text"),
    ],
)
def test_config_that_is_no_mapping_is_told_by_file_and_line(tmp_path, capsys, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert main(["fit", "-c", TINY, "-c", str(path), "--run.root", str(tmp_path / "logs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bfc: error: config {path}")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "logs").exists()


def test_folder_as_config_is_refused(tmp_path, capsys):
    assert main(["fit", "-c", str(tmp_path)]) == 2
    assert "config must be a file" in capsys.readouterr().err
    for words in (["--config="], ["-c="], ["-c", ""]):
        assert main(["fit", *words]) == 2
        assert capsys.readouterr().err == "bfc: error: config must be a file, got ''.\n"


def test_unknown_command_lists_the_known_ones(capsys):
    assert main(["train"]) == 2
    error = capsys.readouterr().err
    assert "fit, validate, test, predict" in error
    assert "'train'" in error


@pytest.mark.parametrize("words", [["--help"], [], ["fit", "--help"]])
def test_help_helps_and_is_no_error(words, capsys):
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "usage: bfc" in text
    assert "--run.name" in text


def test_version_is_that_of_the_package(capsys):
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert version("bfc_lightning") in capsys.readouterr().out
