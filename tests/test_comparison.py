"""What a comparison is told, what it refuses, and what its folder allows."""

import itertools
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli import main
from bfc_lightning.experiments.comparison import planned_runs, points
from bfc_lightning.experiments.folder import KIND, check_unchanged, claimed, find_comparison
from bfc_lightning.runs.folder import RunError
from tests.comparisons import POISON, parse, write

MISTAKES = {
    "no learners": ({"learners": {}}, "learners must not be empty"),
    "no base": ({"base": []}, "base must not be empty"),
    "no seeds": ({"seeds": []}, "seeds must not be empty"),
    "seed twice": ({"seeds": [1, 2, 1]}, "seeds must all be different, got 1 twice"),
    "negative seed": ({"seeds": [-1]}, "seeds must lie in .* got -1"),
    "unknown key": ({"sed": [3]}, "sed"),
    "unknown key of an axis": ({"grid": {"r": {"kye": "a", "values": [1]}}}, "grid: .*kye"),
    "base that is not there": ({"base": ["nowhere.yaml"]}, "base: .*nowhere.yaml"),
    "learner with a slash": ({"learners": {"a/b": {}}}, "a learner must be a plain .* 'a/b'"),
    "axis named like a column": (
        {"grid": {"seed": {"key": "model.width", "values": [1]}}},
        "an axis must not be named like a column .* 'seed'",
    ),
    "list as a label": (
        {"grid": {"w": {"key": "target.init_args.widths", "values": [[3, 2]]}}},
        r"grid.w.values must be numbers or words, .* got \[3, 2\]",
    ),
    "axis without values": (
        {"grid": {"w": {"key": "model.width", "values": []}}},
        "grid.w.values must not be empty",
    ),
    "no workers": ({"workers": 0}, "workers must be at least 1, got 0"),
    "unknown group of a learner": (
        {"learners": {"a": {"modle": {"width": 3}}}},
        "learners.a must begin with one of .*model.* got modle",
    ),
    "seed of a learner": (
        {"learners": {"a": {"seed_everything": 3}}},
        "learners.a must begin with one of .* got seed_everything",
    ),
    "unknown group of an axis": (
        {"grid": {"w": {"key": "run.threads", "values": [1]}}},
        "grid.w.key must begin with one of .* got run",
    ),
    "unknown setting of a learner": (
        {"learners": {"good": {}, "bad": {"model": {"widht": 3}}}},
        "learner bad: .*widht",
    ),
    "wrong value on an axis": (
        {"grid": {"w": {"key": "model.width", "values": [8, "many"]}}},
        "learner narrow, w = many: model.width: expected int .* got many",
    ),
    "flag that means nothing": (
        {"learners": {"a": {"trainer": {"max_epochs": 3}}}},
        "learner a: trainer.max_epochs must be left out, got 3",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line_and_leaves_nothing(mistake, tmp_path, capsys):
    content, message = MISTAKES[mistake]
    assert main(["compare", "-c", str(write(tmp_path, **content))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bfc: error: ")
    assert error.count("\n") == 1
    assert __import__("re").search(message, error), error
    assert not (tmp_path / "logs").exists()


def test_help_explains_every_key(capsys):
    assert main(["compare", "--help"]) == 0
    text = capsys.readouterr().out
    for key in ("base", "seeds", "learners", "grid", "metrics", "workers", "run.overwrite"):
        assert f"--{key} " in text
    assert "target.init_args.level_scales" in text
    assert "compare" in (main(["--help"]), capsys.readouterr().out)[1]


def test_grid_runs_every_combination_with_overlays_that_say_so(tmp_path):
    grid = {
        "ratio": {"key": "target.init_args.level_scales", "values": [0.1, 0.3]},
        "depth": {"key": "target.init_args.widths", "values": {1: [3], 2: [3, 2]}},
    }
    comparison = parse(write(tmp_path, grid=grid))
    names = [point.name for point in points(comparison)]
    assert len(names) == 8
    assert names[1] == "narrow-ratio=0.1-depth=2"
    runs = planned_runs(comparison)
    assert [run.seed for run in runs] == [0] * 8 + [1] * 8
    folder = tmp_path / "logs" / "few"
    with claimed(comparison, folder):
        pass
    text = (folder / "grid" / "depth=2.yaml").read_text()
    assert yaml.safe_load(text) == {"target": {"init_args": {"widths": [3, 2]}}}
    command = (folder / "commands.txt").read_text().splitlines()[1]
    pairs = itertools.pairwise(shlex.split(command))
    configs = [word for option, word in pairs if option == "-c"]
    assert [str(Path(config).relative_to(folder)) for config in configs] == [
        "base/tiny.yaml",
        "base/short.yaml",
        "learners/narrow.yaml",
        "grid/ratio=0.1.yaml",
        "grid/depth=2.yaml",
    ]


def test_settings_of_learners_are_handed_on_as_they_are_written(tmp_path):
    block = {"trainer": POISON, "model": {"activation": "torch.nn.ReLU"}}
    values = {"a": {"class_path": "tests.interventions.SignalAt", "init_args": {"step": 1}}}
    grid = {"w": {"key": "trainer.callbacks", "values": values}}
    comparison = parse(write(tmp_path, learners={"one": block}, grid=grid))
    with claimed(comparison, tmp_path / "few"):
        written = (tmp_path / "few" / "learners" / "one.yaml").read_text()
        overlay = (tmp_path / "few" / "grid" / "w=a.yaml").read_text()
    assert yaml.safe_load(written) == block
    assert yaml.safe_load(overlay) == {"trainer": {"callbacks": values["a"]}}


def test_meaning_of_an_axis_may_grow_but_not_change(tmp_path):
    def with_values(values: object):
        grid = {"depth": {"key": "target.init_args.widths", "values": values}}
        return parse(write(tmp_path, grid=grid))

    folder = tmp_path / "logs" / "few"
    before = with_values({"a": [3], "b": [3, 2]})
    with claimed(before, folder):
        (folder / "runs" / "wide-depth=b-seed0").mkdir(parents=True)
    check_unchanged(before, folder)
    check_unchanged(with_values({"a": [4], "b": [3, 2], "c": [5, 2]}), folder)
    with pytest.raises(RunError, match="grid depth=b has changed since wide-depth=b-seed0"):
        check_unchanged(with_values({"b": [4, 2]}), folder)


def test_comments_of_a_base_may_change(tmp_path):
    path = write(tmp_path)
    comparison = parse(path)
    folder = tmp_path / "logs" / "few"
    with claimed(comparison, folder):
        (folder / "runs" / "wide-seed0").mkdir(parents=True)
    short = tmp_path / "short.yaml"
    short.write_text(f"# a comment\n{short.read_text()}")
    check_unchanged(parse(path), folder)


BASE, UNFINISHED = "base/tiny.yaml", "base/.tiny.yaml.99999999.tmp"
MADE = (BASE, "base/short.yaml", "learners/narrow.yaml", "learners/wide.yaml", "commands.txt")


@pytest.mark.parametrize("begun", [(), (UNFINISHED,), (BASE,), MADE])
@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_folder_that_was_killed_before_its_mark_is_taken(tmp_path, begun, overwrite):
    folder = tmp_path / "logs" / "few"
    path = write(tmp_path)
    with claimed(parse(path), folder):
        pass
    for file in (each for each in folder.rglob("*") if each.is_file()):
        if file.relative_to(folder).as_posix() not in begun:
            file.unlink()
    if UNFINISHED in begun:
        (folder / UNFINISHED).write_text("half")
    comparison = parse(path, "--run.overwrite", overwrite)
    assert find_comparison(comparison, [str(path)]) == folder
    with claimed(comparison, folder):
        assert KIND.owns(folder)
        assert not list(folder.rglob(".*"))


@pytest.mark.parametrize(
    "file",
    [
        *("base/thesis.tex", "thesis.txt", "runs/a-seed0/summary.json", "logs/notes.txt"),
        *(
            "base/depth.yaml",
            "base/tiny.yaml",
            "learners/mine.yaml",
            "commands.txt",
            "compare.yaml",
        ),
        *("base/below/tiny.yaml", "base/.mine.yaml.99999999.tmp", ".notes.tmp"),
    ],
)
def test_folder_of_something_else_is_not_taken(tmp_path, file):
    path = tmp_path / "logs" / "few" / file
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    own = write(tmp_path)
    with pytest.raises(RunError, match="got 'few', which is none"):
        find_comparison(parse(own), [str(own)])
    assert path.read_text() == "precious"


def test_folder_with_links_is_not_taken(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "logs" / "few").mkdir(parents=True)
    (tmp_path / "logs" / "few" / "base").symlink_to(mine)
    own = write(tmp_path)
    with pytest.raises(RunError, match="got 'few', which is none"):
        find_comparison(parse(own), [str(own)])


def test_overwrite_empties_comparisons_only(tmp_path, capsys):
    path = write(tmp_path)
    mine = tmp_path / "logs" / "few"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("precious")
    assert main(["compare", "-c", str(path), "--run.overwrite", "true"]) == 2
    assert "which is none: choose another" in capsys.readouterr().err
    assert (mine / "thesis.tex").exists()
    (mine / "thesis.tex").unlink()
    with claimed(parse(path), mine):
        (mine / "runs" / "wide-seed0").mkdir(parents=True)
    (mine / "thesis.tex").write_text("precious")
    again = parse(mine / "compare.yaml", "--run.overwrite", "true")
    assert find_comparison(again, [str(mine / "compare.yaml")]) == mine
    with claimed(again, mine):
        assert not (mine / "runs").exists()
        assert (mine / "base" / "short.yaml").is_file()
        assert (mine / "thesis.tex").exists()


def test_folder_that_was_killed_while_it_was_emptied_is_still_known(tmp_path, monkeypatch):
    path = write(tmp_path)
    folder = tmp_path / "logs" / "few"
    with claimed(parse(path), folder):
        (folder / "runs" / "wide-seed0").mkdir(parents=True)

    def kill(path):
        if path.name == "runs":
            raise KeyboardInterrupt
        rmtree(path)

    rmtree = shutil.rmtree
    monkeypatch.setattr("bfc_lightning.experiments.own_folder.shutil.rmtree", kill)
    again = parse(path, "--run.overwrite", "true")
    with pytest.raises(KeyboardInterrupt), claimed(again, folder):
        pass
    assert find_comparison(again, [str(path)]) == folder


def test_file_that_is_only_called_like_the_mark_makes_no_comparison_of_its_folder(tmp_path):
    write(tmp_path)
    (tmp_path / "few.yaml").rename(tmp_path / "compare.yaml")
    comparison = parse(tmp_path / "compare.yaml")
    own = Path(comparison.run.root) / "compare"
    assert find_comparison(comparison, [str(tmp_path / "compare.yaml")]) == own


def test_runs_that_are_left_out_now_still_bind_the_settings(tmp_path):
    folder = tmp_path / "logs" / "few"
    with claimed(parse(write(tmp_path, seeds=[0])), folder):
        (folder / "runs" / "narrow-seed0").mkdir(parents=True)
    other = {"narrow": {"model": {"width": 5}}, "wide": {}}
    changed = parse(write(tmp_path, seeds=[1], learners=other))
    with pytest.raises(RunError, match="learner narrow has changed since narrow-seed0"):
        check_unchanged(changed, folder)


def test_order_of_the_bases_is_part_of_the_settings(tmp_path):
    path = write(tmp_path)
    folder = tmp_path / "logs" / "few"
    with claimed(parse(path), folder):
        (folder / "runs" / "wide-seed0").mkdir(parents=True)
    bases = yaml.safe_load(path.read_text())["base"]
    with pytest.raises(RunError, match="base must stay"):
        check_unchanged(parse(write(tmp_path, base=bases[::-1])), folder)


def test_two_commands_cannot_work_in_one_folder(tmp_path):
    comparison = parse(write(tmp_path))
    folder = tmp_path / "logs" / "few"
    with claimed(comparison, folder):
        second = claimed(comparison, folder)
        with pytest.raises(RunError, match="is being worked on by another bfc"):
            second.__enter__()
    with claimed(comparison, folder):
        pass
