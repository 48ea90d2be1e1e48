"""`bfc compare`: the runs are ordinary ones, nothing is run twice, nothing is dropped silently."""

import csv
import itertools
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli import main
from bfc_lightning.cli.comparing import parse_comparison
from bfc_lightning.experiments.comparison import planned_runs, points
from bfc_lightning.experiments.folder import check_unchanged, claimed, find_comparison
from bfc_lightning.experiments.pictures import comparison_figure
from bfc_lightning.experiments.progress import RunsProgress, in_words
from bfc_lightning.experiments.results import (
    Row,
    as_csv,
    counts,
    final_band,
    read_row,
    table,
)
from bfc_lightning.experiments.workers import WorkerPool
from bfc_lightning.runs.folder import RunError
from tests.runs import TINY, same_weights, summary

POISON = {"callbacks": [{"class_path": "tests.interventions.PoisonAt", "init_args": {"step": 9}}]}
KILL = {
    "callbacks": [
        {"class_path": "tests.interventions.SignalAt", "init_args": {"step": 9, "signum": 9}}
    ]
}


def write(folder: Path, name: str = "few", **content: object) -> Path:
    """A comparison of tiny learners, in a file of its own."""
    short = folder / "short.yaml"
    if not short.exists():
        short.write_text("trainer: {max_steps: 20, val_check_interval: 10}\n")
    settings = {
        "base": [str(Path(TINY).resolve()), "short.yaml"],
        "seeds": [0, 1],
        "learners": {"narrow": {"model": {"width": 4}}, "wide": {}},
        "run": {"root": str(folder / "logs")},
        "workers": 1,
        **content,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def parse(path: Path, *words: str):
    return parse_comparison(["-c", str(path), *words])[0]


def cells(folder: Path) -> list[dict[str, str]]:
    with (folder / "compare.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    learners = {"narrow": {"model": {"width": 4}}, "wide": {}, "wild": {"trainer": POISON}}
    assert main(["compare", "-c", str(write(folder, learners=learners))]) == 0
    return folder / "logs" / "few"


def test_folder_holds_what_the_help_names(compared):
    names = {path.name for path in compared.iterdir()}
    files = {f"compare.{kind}" for kind in ("yaml", "csv", "md", "png")}
    assert names == {*files, "features.png", "commands.txt", "base", "learners", "runs", "logs"}
    assert (compared / "compare.png").read_bytes().startswith(b"\x89PNG")
    log = (compared / "logs" / "wide-seed1.txt").read_text()
    assert log.startswith("$ bfc fit -c ")
    assert "wide-seed1: finished" in log


def test_csv_says_what_the_summaries_say(compared):
    rows = cells(compared)
    assert [(row["learner"], row["seed"]) for row in rows] == [
        (learner, seed) for learner in ("narrow", "wide", "wild") for seed in "01"
    ]
    for row in rows:
        content = summary(compared / "runs" / f"{row['learner']}-seed{row['seed']}")
        assert row["status"] == content["status"]
        for key in ("steps", "samples_seen", "wall_seconds"):
            assert float(row[key]) == content[key]
        for key, value in content["metrics"].items():
            assert row[key] == ("" if value is None else str(value))


def test_markdown_shows_medians_over_seeds_worked_by_hand(compared):
    text = (compared / "compare.md").read_text()
    for learner in ("narrow", "wide"):
        values = [
            summary(compared / "runs" / f"{learner}-seed{seed}")["metrics"]["val/nmse"]
            for seed in (0, 1)
        ]
        middle, low, high = sum(values) / 2, min(values), max(values)
        assert f"| {learner} | 2 of 2 | 20 | {middle:.1e} [{low:.1e}, {high:.1e}] |" in text
    assert "  narrow:\n    model: {width: 4}\n" in text
    assert "bfc compare -c" in text


def test_diverged_runs_are_rows_and_counted_and_in_no_median(compared):
    assert [row["status"] for row in cells(compared) if row["learner"] == "wild"] == [
        "diverged",
        "diverged",
    ]
    assert "| wild | 0 of 2, 2 diverged | - | - |" in (compared / "compare.md").read_text()


def test_a_run_is_bit_for_bit_that_of_its_command_by_hand(compared, tmp_path):
    lines = (compared / "commands.txt").read_text().splitlines()
    command = next(line for line in lines if "--run.name wide-seed1" in line)
    words = shlex.split(command)
    assert words[:2] == ["bfc", "fit"]
    words[words.index("--run.root") + 1] = str(tmp_path)
    assert main(words[1:]) == 0
    assert same_weights(tmp_path / "wide-seed1", compared / "runs" / "wide-seed1")
    plain = ["fit", "-c", TINY, "-c", str(compared.parents[1] / "short.yaml")]
    plain += ["--seed_everything", "1", "--run.threads", "1", "--run.root", str(tmp_path)]
    assert main([*plain, "--run.name", "plain"]) == 0
    assert same_weights(tmp_path / "plain", compared / "runs" / "wide-seed1")


def test_the_same_command_again_runs_nothing(compared, monkeypatch, capsys):
    monkeypatch.setattr(WorkerPool, "_start", lambda pool, task: pytest.fail(f"ran {task.name}"))
    before = (compared / "compare.csv").read_text()
    path = compared.parents[1] / "few.yaml"
    assert main(["compare", "-c", str(path)]) == 0
    assert main(["compare", "-c", str(compared / "compare.yaml")]) == 0
    assert (compared / "compare.csv").read_text() == before
    captured = capsys.readouterr()
    assert "6 of 6 runs are done already" in captured.err
    assert f"{compared}/compare.md" in captured.out


def test_metric_that_no_run_logged_is_a_warning_that_lists_the_known(compared, capsys):
    path = compared.parents[1] / "few.yaml"
    assert main(["compare", "-c", str(path), "--metrics", "[val/nmse, val/nope]"]) == 0
    error = capsys.readouterr().err
    assert "warning: no run logged val/nope; known: " in error
    assert "levels/residual_2" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"learners": {"narrow": {"model": {"width": 5}}, "wide": {}}},
            "learner narrow has changed since narrow-seed0 was begun: model.width 5 instead of 4",
        ),
        (
            {"base": [str(Path(TINY).resolve())]},
            r"base must stay \['tiny.yaml', 'short.yaml'\], with which",
        ),
        (
            {"base": [str(Path(TINY).resolve()), "longer/short.yaml"]},
            "the base short.yaml has changed since .* trainer.max_steps 40 instead of 20",
        ),
    ],
)
def test_changed_settings_of_runs_that_exist_are_refused(compared, capsys, change, message):
    longer = compared.parents[1] / "longer"
    longer.mkdir(exist_ok=True)
    (longer / "short.yaml").write_text("trainer: {max_steps: 40, val_check_interval: 10}\n")
    path = write(compared.parents[1], name="changed", **change)
    before = (compared / "compare.yaml").read_text()
    assert main(["compare", "-c", str(path), "--run.name", "few"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert __import__("re").search(message, error), error
    assert "--run.overwrite true" in error
    assert (compared / "compare.yaml").read_text() == before


def test_dead_worker_is_a_row_and_the_others_finish(compared, capsys):
    learners = {"wide": {}, "dying": {"trainer": KILL}, "late": {"model": {"width": 6}}}
    path = write(compared.parents[1], name="more", learners=learners, seeds=[0])
    assert main(["compare", "-c", str(path), "--run.name", "few"]) == 1
    error = capsys.readouterr().err
    assert "2/3 dying-seed0 failed" in error
    assert "dying-seed0 failed: its process was killed by signal 9" in error
    assert "3/3 late-seed0 finished val/nmse" in error
    assert "1 of 3 runs failed" in error
    statuses = {row["learner"]: row["status"] for row in cells(compared)}
    assert statuses == {"wide": "finished", "dying": "failed", "late": "finished"}


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
        with pytest.raises(RunError, match="is being worked on by another bfc compare"):
            second.__enter__()
    with claimed(comparison, folder):
        pass


def made_up(comparison, folder: Path, value) -> list[Row]:
    """Rows as if the runs had been: `value(run)` is the final metric, None means diverged."""
    rows = []
    for run in planned_runs(comparison):
        final = value(run)
        own = folder / run.name
        own.mkdir(parents=True)
        last = float("nan") if final is None else final
        (own / "metrics.csv").write_text(f"step,val/nmse\n0,1.0\n10,{last}\n")
        status = "diverged" if final is None else "finished"
        content = {"status": status, "steps": 10, "metrics": {"val/nmse": final}}
        rows.append(Row(run, own, status, content))
    return rows


def test_medians_counts_and_empty_cells_by_hand(tmp_path):
    comparison = parse(write(tmp_path, seeds=[0, 1, 2, 3, 4]))
    values = {0: 0.5, 1: 0.1, 2: None, 3: 0.2, 4: 0.4}
    rows = made_up(comparison, tmp_path / "runs", lambda run: values[run.seed])
    point = points(comparison)[0]
    found = final_band(rows, point, "val/nmse")
    assert (found.middle, found.low, found.high) == (pytest.approx(0.3), 0.1, 0.5)
    titles, lines = table(comparison, rows)
    assert titles == ["learner", "runs finished", "steps", "val/nmse"]
    assert lines[0] == ["narrow", "4 of 5, 1 diverged", "10", "3.0e-01 [1.0e-01, 5.0e-01]"]
    empty = [line for line in as_csv(rows).splitlines() if "diverged" in line]
    assert empty[0] == "narrow,2,diverged,10,,,"


def test_status_of_a_run_comes_from_its_summary_unless_it_was_seen_to_fail(tmp_path):
    comparison = parse(write(tmp_path))
    run = planned_runs(comparison)[0]
    assert read_row(run, tmp_path).status == "missing"
    assert read_row(run, tmp_path, has_failed=True).status == "failed"
    (tmp_path / run.name).mkdir()
    for stored, status, failed in (
        ("running", "interrupted", "failed"),
        ("interrupted", "interrupted", "failed"),
        ("finished", "finished", "finished"),
        ("diverged", "diverged", "diverged"),
    ):
        (tmp_path / run.name / "summary.json").write_text(f'{{"status": "{stored}"}}')
        assert read_row(run, tmp_path).status == status
        assert read_row(run, tmp_path, has_failed=True).status == failed
    row = Row(run, tmp_path, "missing")
    assert counts([row, Row(run, tmp_path, "finished")]) == "1 of 2, 1 missing"


def test_curves_show_medians_of_finished_runs_over_steps(tmp_path):
    comparison = parse(write(tmp_path, seeds=[0, 1, 2]))
    values = {0: 0.5, 1: 0.05, 2: 0.2}
    rows = made_up(
        comparison,
        tmp_path / "runs",
        lambda run: None if run.name == "wide-seed0" else values[run.seed],
    )
    figure = comparison_figure(comparison, rows, title="few")
    assert len(figure.axes) == 1
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["narrow"].get_xdata()) == [0, 10]
    assert list(lines["narrow"].get_ydata()) == pytest.approx([
        1,
        statistics.median([0.5, 0.05, 0.2]),
    ])
    assert list(lines["wide (1 of 3 diverged)"].get_ydata()) == pytest.approx([1, 0.125])
    assert figure.axes[0].get_yscale() == "log"


def test_grid_figure_has_a_panel_for_each_metric_and_combination(tmp_path):
    grid = {
        "ratio": {"key": "target.init_args.level_scales", "values": [0.1, 1.0]},
        "depth": {"key": "target.init_args.widths", "values": {"one": [3], "two": [3, 2]}},
    }
    comparison = parse(write(tmp_path, seeds=[0], grid=grid))
    rows = made_up(
        comparison, tmp_path / "runs", lambda run: float(dict(run.point.labels)["ratio"])
    )
    figure = comparison_figure(comparison, rows, title="few")
    assert [panel.get_title() for panel in figure.axes] == [
        "val/nmse\ndepth = one",
        "val/nmse\ndepth = two",
    ]
    for panel in figure.axes:
        assert panel.get_xscale() == "log"
        line = panel.lines[0]
        assert list(line.get_xdata()) == list(line.get_ydata()) == [0.1, 1.0]
    swapped = parse(write(tmp_path, seeds=[0], grid=dict(reversed(grid.items()))))
    rows = made_up(swapped, tmp_path / "swapped", lambda run: 1.0)
    panel = comparison_figure(swapped, rows, title="few").axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["one", "two"]


def test_time_left_counts_the_workers(capsys):
    with RunsProgress(9, num_done=1, num_workers=2) as progress:
        progress.begin("a")
        progress.end("a", "finished val/nmse 1.0e-02", 40.0)
    assert capsys.readouterr().err == ("2/9 a finished val/nmse 1.0e-02 (40 s, about 2 min left)\n")
    assert [in_words(t) for t in (5, 89, 90, 3600, 7200)] == [
        "5 s",
        "89 s",
        "2 min",
        "60 min",
        "2.0 h",
    ]


@pytest.mark.slow
def test_refused_learner_is_told_once_and_all_refused_is_a_mistake(tmp_path, capsys):
    bad = {"target": {"init_args": {"widths": [3, 9]}}}
    path = write(tmp_path, learners={"bad": bad})
    assert main(["compare", "-c", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("widths must not grow") == 1
    assert "bad-seed1 failed: exit status 2" in error
    path = write(tmp_path, name="both", learners={"bad": bad, "wide": {}}, seeds=[0])
    assert main(["compare", "-c", str(path)]) == 1
    statuses = {row["learner"]: row["status"] for row in cells(tmp_path / "logs" / "both")}
    assert statuses == {"bad": "failed", "wide": "finished"}


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_stopped_midway_and_completed_equals_undisturbed(tmp_path, signum):
    learners = {"narrow": {"model": {"width": 4}}, "wide": {}}
    (tmp_path / "short.yaml").write_text(
        "trainer: {max_steps: 400, val_check_interval: 20, log_every_n_steps: 20}\n"
    )
    path = write(tmp_path, learners=learners, seeds=[0])
    words = ["compare", "-c", str(path), "--workers", "2"]
    assert main([*words, "--run.name", "undisturbed"]) == 0
    folder = tmp_path / "logs" / "few"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.command", *words], cwd=os.getcwd(), start_new_session=True
    )
    last = [
        folder / "runs" / name / "checkpoints" / "last.ckpt"
        for name in ("narrow-seed0", "wide-seed0")
    ]
    while not any(file.exists() for file in last):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signum)
    status = process.wait()
    assert status == (-9 if signum == signal.SIGKILL else 130)
    assert "finished" not in {summary(f.parents[1])["status"] for f in last if f.exists()}
    assert main(words) == 0
    for name in ("narrow-seed0", "wide-seed0"):
        other = tmp_path / "logs" / "undisturbed" / "runs" / name
        assert same_weights(folder / "runs" / name, other)
    assert "going on from step" in "".join(p.read_text() for p in (folder / "logs").iterdir())
