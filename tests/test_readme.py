"""The README says the truth: its code runs, its files and keys exist."""

import re
from pathlib import Path

README = Path("README.md").read_text()


def test_python_example_learns(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), "README.md", "exec"), {})
    assert float(capsys.readouterr().out) < 0.05


def test_tree_names_every_module_and_nothing_else():
    tree = README.split("## Where things are")[1].split("## Results")[0]
    named = set(re.findall(r"^ {6,8}(\w+(?:\.py|/))", tree, re.MULTILINE))
    package = Path("bfc_lightning")
    found = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    found |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    found |= {path.name for path in (package / "targets").glob("*.py")} - {"__init__.py"}
    assert named == found


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or Path(link).exists(), link


def test_commands_name_configs_that_exist():
    for config in re.findall(r"-c (configs/[\w/]+\.yaml)", README):
        assert Path(config).is_file(), config
