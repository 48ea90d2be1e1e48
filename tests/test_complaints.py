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
INNER = """Parser key "target":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'bfc_lightning.targets.base.Target'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'bfc_lightning.HierarchicalTarget':
        Parser key "weights":
          Does not validate against any of the Union subtypes
          Subtypes: [list[list[list[list[float]]]], <class 'NoneType'>]
          Errors:
            - Expected a <class 'list'>
            - Expected a <class 'NoneType'>
          Given value type: <class 'str'>
          Given value: x
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'class_path': 'HierarchicalTarget', 'init_args': {'weights': 'x'}}"""
OPTIMIZER = """Parser key "model.optimizer":
  Type typing.Callable[[collections.abc.Iterable], torch.optim.Optimizer] expects a function or a \
callable class: Parser key "lr":

    - Expected a path but x either not accessible or invalid
    - Does not validate against any of the Union subtypes
    Subtypes: [<class 'float'>, <class 'torch.Tensor'>]
    Errors:
      - Expected a <class 'float'>
      - Expected a dot import path string: x
    Given value type: <class 'str'>
    Given value: x. Got value: Namespace(class_path='torch.optim.Adam')"""
NO_CLASS = """Parser key "inputs":
  Errors:
    - Not a valid subclass of InputDistribution
      Subclass types expect one of:
      - a class path (str)
      - a dict with class_path entry
      - a dict without class_path but with init_args entry (class path given previously)
      - a dict with parameters accepted by the base class (implicit class_path)
    - Expected a <class 'NoneType'>
  Given value: {'init_args': {'input_dim': 8}}"""
AXIS = """Parser key "grid":
  Not a valid subclass of Axis. Got value: 3
  Subclass types expect one of:
  - a class path (str)
  - a dict with class_path entry"""
LOADED = """Parser key "model":
Unable to load config 'null'
  - Parser key "model": Unable to load config "null\""""
SIZE = """Does not validate against any of the Union subtypes
Subtypes: [<class 'bfc_lightning.inputs.InputDistribution'>, <class 'NoneType'>]
Errors:
  - ones(): argument 'size' failed to unpack the object at pos 1 with error "Overflow when unpacking
    Exception raised from THPUtils_unpackLong at python_numbers.h:79 (most recent call first):
    frame #0: c10::Error::Error(c10::SourceLocation) + 0x9d (0x7fd6dcb22b8d in libc10.so)"""
NO_MAPPING = """Parser key "inputs":
  Errors:
    - Problem with given class_path 'bfc_lightning.Gaussian':
        'int' object has no attribute 'keys'
    - Expected a <class 'NoneType'>"""
CALLABLE = """Parser key "model.activation":
  Type collections.abc.Callable[..., Any] expects a function or a callable class: the following \
arguments are required: in_features. Got value: Namespace(class_path='torch.nn.Linear')"""


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
        (INNER, "target.init_args.weights: expected list, got x."),
        (OPTIMIZER, "model.optimizer.init_args.lr: expected float, got x."),
        (
            NO_CLASS,
            "inputs: must be the name or the import path of a class, here of kind InputDistribution, "
            "got {'init_args': {'input_dim': 8}}. Known: Gaussian, GaussianMixture.",
        ),
        (LOADED, "model: must be a mapping of settings, got 'null'."),
        (SIZE, "inputs: a size in the settings is larger than any memory."),
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)",
            "can't allocate memory: you tried to allocate 8 bytes",
        ),
        ("Key must be a string, got: 2.", "a key of the config must be a word, got 2."),
        ('Empty nested key: "".', "a key of the config must be a word, got ''."),
        ("Invalid weight_decay value: -0.1", "model.optimizer: Invalid weight_decay value: -0.1"),
        (
            "Subcommand 'fit' does not accept option 'learners.wide'",
            "Subcommand 'fit' does not accept option 'learners.wide' "
            "(it is one of bfc compare or bfc sweep)",
        ),
        (
            'Parser key "num_measures":\n  Not of type NonNegativeInt: int() argument must be a '
            "string, a bytes-like object or a real number, not 'list'",
            "num_measures: expected int, got a list",
        ),
        ("unrecognized arguments: ", "unrecognized arguments: ''"),
        (
            'Parser key "target":\n  Errors:\n    - Import path a.B does not correspond to a '
            "subclass of Target\n  Given value: Namespace(class_path='a.B', init_args=3)",
            "target: must be the name or the import path of a class, here of kind Target, got a.B. "
            "Known: HierarchicalTarget, RichRepresentation, BackwardCorrection, SingleIndex, "
            "QuadraticFeature, DepthSeparation, Sight.",
        ),
        (AXIS, "grid: each axis must have a key and values, got 3."),
        (NO_MAPPING, "inputs: class_path bfc_lightning.Gaussian: init_args must be a mapping"),
        (
            CALLABLE,
            "model.activation: init_args must have in_features, got torch.nn.Linear",
        ),
        (
            'Parser key "num_measures":\n  Not of type NonNegativeInt: invalid literal for int() '
            "with base 10: 'x'",
            "num_measures: expected int, got 'x'",
        ),
        (
            "Parser key \"model.linear_readout\":\n  Expected a <class 'bool'>. Got value: ",
            "model.linear_readout: expected bool, got ''",
        ),
        (
            'Parser key "scheme":\n  Expected a dot import path string: ',
            "scheme: must be the name or the import path of a class, got ''. "
            "Known: Joint, Progressive, Layerwise.",
        ),
        (
            "Parser key \"base\":\n  Expected a <class 'dict'>. Got value: 3",
            "base: expected a mapping, got 3",
        ),
    ],
)
def test_message_becomes_key_rule_and_value(message, line):
    assert one_line(message) == line
