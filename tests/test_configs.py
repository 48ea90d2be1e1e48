"""Every shipped config is parsed, explains its keys, and holds only what differs."""

from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli.application import Application

CONFIGS = sorted(Path("configs").rglob("*.yaml"))


def leaves(tree: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= leaves(value, f"{prefix}.{key}".lstrip("."))
    return flat


@pytest.fixture
def parse(monkeypatch):
    """Parses as `bfc fit` does, and stops before any object is made."""

    def parse(path: Path):
        monkeypatch.setattr(Application, "before_instantiate_classes", lambda self: None)
        monkeypatch.setattr(Application, "instantiate_classes", lambda self: None)
        monkeypatch.setattr(Application, "_run_subcommand", lambda self, command: None)
        return Application(["fit", "-c", str(path)], started=0.0).config.fit

    return parse


def test_the_promised_configs_are_there():
    names = {path.stem for path in CONFIGS}
    assert names >= {
        *("quickstart", "depth3", "depth3_long", "depth4", "theory", "sgd", "classification"),
        *("non_spherical", "mixture", "rich_representation", "backward_correction"),
        *("finite_sample", "single_index", "quadratic_feature", "depth_separation"),
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_parsed_to_what_it_says(path, parse):
    config = parse(path)
    for key, value in leaves(yaml.safe_load(path.read_text())).items():
        if not isinstance(value, list) and "class_path" not in key and "activation" not in key:
            assert config.get(key) == value, key


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_it_is_and_how_to_run_it(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert f"#   bfc fit -c {path}" in text


def test_first_level_of_every_config_is_known(parse):
    known = {"inputs", "labels", "target", "model", "data", "run", "trainer"}
    for path in CONFIGS:
        assert set(yaml.safe_load(path.read_text())) <= known, path
