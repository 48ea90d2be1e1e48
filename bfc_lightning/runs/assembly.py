"""From YAML to objects: which arguments make a problem, how they are linked, their seeds."""

from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt

from bfc_lightning.callbacks.measurements import NUM_POINTS
from bfc_lightning.data import HierarchicalData
from bfc_lightning.inputs import InputDistribution
from bfc_lightning.labels import Labels
from bfc_lightning.measures.battery import Measure
from bfc_lightning.module import HierarchicalLearner, default_optimizer
from bfc_lightning.runs.overrides import OVERRIDABLE
from bfc_lightning.schemes import Scheme
from bfc_lightning.seeds import derive_seed
from bfc_lightning.targets import Target

PROBLEM_GROUPS = ("inputs", "labels", "target", "model", "data")
# Which generator draws for which group of arguments, where the group has no seed of its own.
_GENERATORS = {"inputs": "inputs", "target": "target", "model": "init", "data": "stream"}


def problem_parser() -> ArgumentParser:
    """A parser of the groups that make a learner and its problem, for configs that were written."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(HierarchicalLearner, "model")
    parser.add_class_arguments(HierarchicalData, "data")
    add_problem_arguments(parser)
    return parser


def add_problem_arguments(parser: ArgumentParser) -> None:
    """Adds `inputs`, `labels` and `target`, and hands them to `data` and `model`.

    Args:
        parser: one that already has the groups `model` and `data`.
    """
    parser.add_subclass_arguments(InputDistribution, "inputs", help="The law of x.", required=True)
    parser.add_subclass_arguments(Labels, "labels", help="Regression or classification.")
    parser.add_subclass_arguments(Target, "target", help="What is to be learned.", required=True)
    adam = {"class_path": "torch.optim.Adam", "init_args": default_optimizer.keywords}
    regression = {"class_path": "bfc_lightning.labels.Regression"}
    parser.set_defaults({"labels": regression, "model.optimizer": adam})
    parser.link_arguments("inputs", "labels.init_args.inputs", apply_on="instantiate")
    parser.link_arguments(
        "labels", "target.init_args.inputs", compute_fn=_target_distribution, apply_on="instantiate"
    )
    for group in ("model", "data"):
        parser.link_arguments("target", f"{group}.target", apply_on="instantiate")
        parser.link_arguments("labels", f"{group}.labels", apply_on="instantiate")


def _target_distribution(labels: Labels) -> InputDistribution:
    return labels.target_distribution


def add_study_arguments(parser: ArgumentParser) -> None:
    """Adds `scheme`, in which order layers join and train, and what is measured, and how often.

    Args:
        parser: of a command.
    """
    parser.add_subclass_arguments(
        Scheme, "scheme", help="Joint (all layers at once), Progressive or Layerwise training."
    )
    parser.add_argument(
        "--measures",
        type=list[Measure],
        default=[],
        help="Measures of your own, beside ours, by class_path (docs/extending.md).",
    )
    parser.add_argument(
        "--num_measures",
        type=NonNegativeInt,
        default=NUM_POINTS,
        help="About how many times levels, features and kernel are measured; 0 for never. The time "
        "that it takes grows with the square of the width: minutes a time beyond 5,000.",
    )
    parser.add_argument(
        "--training_path",
        type=Literal["auto", "fast", "plain"],
        default="auto",
        help="`plain` takes Lightning's own steps, one at a time, with autograd; `fast` takes many "
        "at a time with gradients by hand, equal to rounding; `auto` is `fast` wherever it can "
        "train the run: not with accumulated gradients, mixed precision, LBFGS, "
        "a linearized learner or an activation without a form in place.",
    )
    parser.add_argument(
        "--replica_overrides",
        type=list[dict[str, Any]],
        default=[],
        help="With model.num_replicas: settings in which each replica differs, a mapping from "
        "dotted keys for each, e.g. [{model.optimizer.init_args.lr: 1e-3}, {...}]: "
        f"{', '.join(OVERRIDABLE)}.",
    )
    parser.set_defaults({"scheme": {"class_path": "bfc_lightning.Joint"}})


def fill_seeds(config: Namespace, seed: int) -> None:
    """Gives every part that has no seed of its own one derived from the run's.

    `inputs`, `target`, `model` and `data` get the seeds of the generators `inputs`, `target`,
    `init` and `stream`; the components of a mixture get one each; a class boundary gets the
    target's.

    Args:
        config: groups by name; changed in place.
        seed: the run's.
    """
    for group, name in _GENERATORS.items():
        _fill(config[group], derive_seed(seed, name))
    target_seed = config.get("target.init_args.seed")
    if target_seed is None:
        target_seed = derive_seed(seed, "target")
    _fill(config["labels"], target_seed)


def _fill(part: object, seed: int) -> None:
    if isinstance(part, list):
        for number, entry in enumerate(part):
            _fill(entry, derive_seed(seed, number))
    elif isinstance(part, Namespace):
        if "seed" in vars(part) and part["seed"] is None:
            part["seed"] = seed
        for entry in vars(part).values():
            if isinstance(entry, Namespace | list):
                _fill(entry, seed)
