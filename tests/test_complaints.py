"""One clear line out of whatever was raised."""

import pytest

from bfc_lightning.cli.complaints import one_line

UNION = """Parser key "model.width":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, list[int]]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'list'>
  Given value type: <class 'str'>
  Given value: many"""
OWN = """Does not validate against any of the Union subtypes
Subtypes: [<class 'bfc_lightning.targets.base.Target'>, <class 'NoneType'>]
Errors:
  - widths must not grow from input_dim = 8 upwards, got [3, 9].
  - Expected a <class 'NoneType'>
Given value type: <class 'jsonargparse._namespace.Namespace'>
Given value: Namespace(class_path='bfc_lightning.HierarchicalTarget')"""


CAUSE = """Parser key "target":
  - Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'bfc_lightning.HierarchicalTarget':
        Option 'width' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {}"""
NAME = """Parser key "inputs":
  - Expected a dot import path string: Gausian
  Given value: Gausian"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            CAUSE,
            "target: class_path bfc_lightning.HierarchicalTarget: Option 'width' is not accepted",
        ),
        (
            NAME,
            "inputs: must be the name or the import path of a class, got Gausian. "
            "Known: Gaussian, GaussianMixture.",
        ),
        (
            "the following arguments are required: fit.target",
            "target must be given, in a config (-c FILE) or as --KEY.",
        ),
        (
            "unrecognized arguments: pyproject.toml",
            "unrecognized arguments: pyproject.toml (a config is given by -c pyproject.toml)",
        ),
        ("depth must be at least 1, got 0.", "depth must be at least 1, got 0."),
        ("two\n   lines", "two lines"),
        (UNION, "model.width: expected int or expected list, got many."),
        (OWN, "target: widths must not grow from input_dim = 8 upwards, got [3, 9]."),
        ('Parser key "config": no file', "config: no file"),
    ],
)
def test_message_becomes_key_rule_and_value(message, line):
    assert one_line(message) == line
