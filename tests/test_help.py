"""Help, version and completion: on one screen, and without loading torch where possible."""

import contextlib
import importlib.metadata
import subprocess
import sys

import pytest

from bfc_lightning.cli import main

LONGEST = 60
COMMANDS = ("fit", "validate", "test", "predict", "baseline", "compare", "sweep", "claims")
GROUPS = {
    "inputs": "--inputs",
    "target": "--target",
    "labels": "--labels",
    "model": "--model.width",
    "data": "--data.batch_size",
    "scheme": "--scheme",
    "trainer": "--trainer.max_steps",
    "run": "--run.overwrite",
}


def printed(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_fits_on_a_screen(capsys, command):
    text = printed(capsys, command, "--help")
    assert text == printed(capsys, command, "-h")
    assert text.startswith(f"usage: bfc {command}")
    assert len(text.splitlines()) <= LONGEST
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("command", ["fit", "baseline"])
def test_help_of_a_command_shows_each_option_once(capsys, command):
    lines = printed(capsys, command, "--help").splitlines()
    options = [line.split()[0] for line in lines if line.startswith("  -")]
    assert len(set(options)) == len(options)
    assert {"-c", "--print_config"} <= set(options)


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_shows_its_keys_only(capsys, group):
    text = printed(capsys, "fit", "--help", group)
    keys = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert GROUPS[group] in keys
    assert all(key.startswith(f"--{group}") for key in keys)


def test_help_all_shows_every_group(capsys):
    text = printed(capsys, "fit", "--help", "all")
    assert all(f"  {key}" in text for key in GROUPS.values())


def test_help_of_an_unknown_group_names_the_closest(capsys):
    assert main(["fit", "--help", "tariner"]) == 2
    message = capsys.readouterr().err
    assert "'trainer'" in message
    assert "baseline" not in message


@pytest.mark.parametrize("argv", [["help"], ["--help"], ["-h"], []])
def test_help_without_a_command_lists_the_commands(capsys, argv):
    text = printed(capsys, *argv)
    assert all(f"\n  {command}" in text for command in (*COMMANDS, "init", "completion"))
    assert len(text.splitlines()) <= LONGEST


@pytest.mark.parametrize("argv", [["--version"], ["fit", "--version"], ["compare", "--version"]])
def test_version_is_one_line(capsys, argv):
    text = printed(capsys, *argv)
    assert text == f"bfc_lightning {importlib.metadata.version('bfc_lightning')}\n"


@pytest.mark.parametrize(
    ("typed", "right"), [("ift", "fit"), ("swep", "sweep"), ("basline", "baseline")]
)
def test_unknown_command_names_the_closest(capsys, typed, right):
    assert main([typed]) == 2
    assert f"Did you mean '{right}'?" in capsys.readouterr().err


def test_command_that_resembles_none_lists_them_all(capsys):
    assert main(["train"]) == 2
    assert "fit, validate, test, predict" in capsys.readouterr().err


def test_help_version_and_typos_do_not_import_torch():
    code = "from bfc_lightning.cli import main\nimport sys\n"
    code += "for argv in (['--help'], ['--version'], ['fti']):\n    main(argv)\n"
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> str:
    """The completion script for bash, in a file."""
    path = tmp_path_factory.mktemp("completion") / "bfc.bash"
    with path.open("w") as file, contextlib.redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    return str(path)


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last word; nothing but the shell runs."""
    line = " ".join(["bfc", *words])
    body = f"""
source {script}
COMP_WORDS=({" ".join(repr(word) for word in ("bfc", *words))})
COMP_CWORD={len(words)}; COMP_LINE={line!r}; COMP_POINT={len(line)}
PATH=
_shtab_bfc
echo "${{COMPREPLY[@]}}"
"""
    shell = subprocess.run(["bash", "-c", body], capture_output=True, text=True, check=True)
    return shell.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["swe"], {"sweep"}),
        (["fit", "--model.wid"], {"--model.width"}),
        (["test", "--ckpt"], {"--ckpt_path"}),
        (["fit", "-c", "quick"], {"quickstart"}),
        (["sweep", "-c", "sweep/g"], {"sweep/gap"}),
        (["claims", "--prof"], {"--profile"}),
    ],
)
def test_script_completes_in_the_shell_alone(script, words, expected):
    assert expected <= set(completed(script, *words))
