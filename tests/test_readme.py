"""The documents are right: code runs, and files, configs and modules exist."""

import re
from pathlib import Path

import pytest

README = Path("README.md").read_text()
DOCUMENTS = [Path("README.md"), Path("logs/README.md"), *sorted(Path("docs").rglob("*.md"))]
MANUALS = [document for document in DOCUMENTS if "results" not in document.parts]


def test_python_example_learns(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), "README.md", "exec"), {})
    assert float(capsys.readouterr().out) < 0.05


def test_tree_names_every_module_and_nothing_else():
    tree = README.split("## Repository")[1].split("\n## ")[0]
    named = set(re.findall(r"^ {6}(\w+(?:\.py|/))", tree, re.MULTILINE))
    package = Path("bfc_lightning")
    found = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    found |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert named == found


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_have_a_target(document):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert link.startswith("https://") or (document.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_anchors_exist(document):
    for link, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", document.read_text()):
        text = (document.parent / link if link else document).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", MANUALS, ids=str)
def test_commands_name_configs_that_exist(document):
    shipped = re.findall(r"-c ((?!logs/|my_)[\w/]+)(?:\.yaml)?(?=[\s`)])", document.read_text())
    for config in set(shipped) - {"FILE", "NAME"}:
        path = Path("configs") / f"{config.removeprefix('configs/')}.yaml"
        assert path.is_file(), config
