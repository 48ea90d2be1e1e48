"""Options and keys: how they are written, and what is said of those that do not exist."""

import random
import re
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bfc_lightning.cli import experiments, options
from bfc_lightning.cli.console import to_continue
from bfc_lightning.cli.options import STUDIES, parse
from bfc_lightning.runs.config import Study
from bfc_lightning.runs.settings import find_config, flatten
from tests.runs import error_of

STOPPING = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monito", "val/loss"]
HELP = {"compare": experiments.HELP, "sweep": experiments.HELP, "claims": experiments.CLAIMS_HELP}
RATE = 0.97
"""The share of misspelled names for which the right one is suggested."""


def config(*argv: str):
    return parse(["-c", "quickstart", *argv], command="fit").config


@pytest.mark.parametrize("number", ["-1e-3", "-1", "-.5", "-2.", "-1.5E+2"])
def test_negative_numbers_of_every_form_are_values(number):
    assert config("--inputs.mean", number).inputs.init_args.mean == float(number)
    assert config(f"--inputs.mean={number}").inputs.init_args.mean == float(number)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--run.overwrite"], True),
        (["--run.overwrite", "--run.threads", "1"], True),
        (["--run.overwrite", "true"], True),
        (["--run.overwrite=false"], False),
    ],
)
def test_flag_needs_no_value(typed, expected):
    assert config(*typed).run.overwrite is expected


@pytest.mark.parametrize("typed", [["-c", "depth3"], ["--config", "depth3"], ["--config=depth3"]])
def test_shipped_config_is_found_by_its_name(typed):
    found = parse(typed, command="fit").config
    assert [Path(str(each)) for each in found.config] == [find_config("depth3")]


def test_config_in_the_working_directory_comes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("depth3.yaml").touch()
    assert find_config("depth3") == Path("depth3.yaml")


@pytest.mark.parametrize(
    "typed",
    [
        ("fit", "--seed", "3"),
        ("fit", "--run.over"),
        ("fit", "--model.optimizer.weight", "0.1"),
        ("test", "--ckpt", "last"),
        ("compare", "--rep"),
        ("claims", "--prof", "quick"),
    ],
)
def test_options_are_never_abbreviated(capsys, typed):
    command, *rest = typed
    given = ["-c", "quickstart"] if command in STUDIES else []
    assert f"Unknown key '{rest[0][2:]}'" in error_of(capsys, command, *given, *rest)


def misspelled(word: str, rng: random.Random) -> str:
    """The word with one letter replaced."""
    place = rng.choice([i for i, letter in enumerate(word) if letter.isalpha()])
    others = [letter for letter in string.ascii_lowercase if letter != word[place]]
    return word[:place] + rng.choice(others) + word[place + 1 :]


@cache
def study_of(command: str) -> Study:
    """The parser of a command, which takes longer to build than to use."""
    return Study(prog=f"bfc {command}", **STUDIES[command])


def options_of(command: str) -> list[str]:
    if command in STUDIES:
        defaults = study_of(command).parser.get_defaults().as_dict()
        return sorted({*flatten(defaults), "help", "print_config"})
    text = HELP[command].partition("options:")[2]
    found = re.findall(r"^ +--([a-z_.]+)", text, flags=re.MULTILINE)
    return [*found, "help", *([] if command == "claims" else ["limits.seconds", "config"])]


def misspellings(command: str, seed: int) -> Iterator[tuple[str, str]]:
    rng, known = random.Random(seed), options_of(command)
    for name in known:
        wrong = misspelled(name, rng)
        if wrong not in known:
            yield name, wrong


def names_it(message: str, name: str) -> bool:
    """Whether a message names the option, with or without the `init_args` that may be left out."""
    return f"'{name.replace('.init_args.', '.')}'?" in message.replace(".init_args.", ".")


@pytest.mark.parametrize("command", ["fit", "baseline", "compare", "claims"])
def test_misspelled_option_names_the_right_one(capsys, monkeypatch, command):
    monkeypatch.setattr(options, "Study", lambda **_: study_of(command))
    given = [] if command == "claims" else ["-c", "sweep/gap" if command in HELP else "quickstart"]
    missed = [
        (name, message)
        for name, wrong in misspellings(command, seed=0)
        if not names_it(message := error_of(capsys, command, *given, f"--{wrong}", "1"), name)
    ]
    assert len(missed) <= (1 - RATE) * len(options_of(command)), missed


@pytest.mark.parametrize("command", ["compare", "claims"])
def test_misspelled_option_at_the_end_names_the_right_one(capsys, command):
    found = {
        name: names_it(error_of(capsys, command, f"--{wrong}"), name)
        for name, wrong in misspellings(command, seed=1)
    }
    assert sum(found.values()) >= 0.9 * len(found)  # `ltst` may be `list` or `test`


def test_misspelled_key_of_a_config_names_the_right_one_and_its_line(tmp_path, capsys):
    rng, lines = random.Random(0), find_config("quickstart").read_text().splitlines()
    keys = {n: m[1] for n, line in enumerate(lines) if (m := re.match(r" *(\w+):", line))}
    assert len(keys) == 17
    path = tmp_path / "mine.yaml"
    for number, key in keys.items():
        changed = lines.copy()
        changed[number] = lines[number].replace(key, misspelled(key, rng), 1)
        path.write_text("\n".join(changed))
        message = error_of(capsys, "fit", "-c", str(path))
        assert f"({path}, line {number + 1})" in message
        assert re.search(rf"mean '([\w.]+\.)?{key}'\?", message), message


MISSPELLED = {
    "# width: 3\nmodel: {depth: 3,\n  widht: 8}\n": ("model.widht", 3, "model.width"),
    "model:\n  optimizer: {class_path: Adma}\n": ("Adma", 2, "Adam"),
}


def test_misspelled_name_in_a_later_config_is_found_there(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    for text, (name, line, right) in MISSPELLED.items():
        path.write_text(text)
        message = error_of(capsys, "fit", "-c", "quickstart", "-c", str(path))
        assert f"{name!r} ({path}, line {line}). Did you mean {right!r}?" in message


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["fit", "quickstart"], "'quickstart'"),
        (["fit", "-c", "quickstart", "depth3"], "'depth3'"),
        (["fit", "-c", "quickstart", "-x", "3"], "'-x'"),
        (["fit", "-c", "compare/schemes"], "try: bfc compare -c"),
        (["baseline", "-c", "quickstart"], "try: bfc baseline -c"),
        (["init", "."], "exists: choose"),
        (["fit"], "try: bfc fit -c quickstart\n"),
        (["fit", "-c", "quikstart"], "Did you mean 'quickstart'?"),
        (["sweep", "-c", "sweep/gao"], "Did you mean 'sweep/gap'?"),
        (["fit", "-c", "quickstart", *STOPPING], "Did you mean 'trainer.callbacks.monitor'?"),
        (["compare", "-c"], "config must be given"),
        (["compare", "sweep/gap"], "bfc compare -c "),
        (["fit", "-c", "quickstart", "--model.width"], "--model.width"),
        (["fit", "-c", "quickstart", "--model.width", "wide"], "model.width"),
        (["fit", "-c", "quickstart", "--trainer.max_steps", "0"], "trainer.max_steps"),
    ],
)
def test_wrong_argument_is_named(capsys, argv, named):
    assert named in error_of(capsys, *argv)


def test_commands_that_continue_delete_nothing():
    argv = ["-c", "a.yaml", "--run.overwrite", "true", "--run.name", "my-overwrite"]
    assert to_continue("compare", argv) == "bfc compare -c a.yaml --run.name my-overwrite"
    argv = ["gap", "--run.overwrite", "--workers", "2", "--run.overwrite=true"]
    assert to_continue("claims", argv) == "bfc claims gap --workers 2"
