"""From YAML to one resolved configuration, and from that to objects and their seeds."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace, register_unresolvable_import_paths
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt
from lightning import Callback, Trainer
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import accelerators, loggers, plugins, profilers, strategies

from bfc_lightning import fresh_starts  # noqa: F401, its schemes are found by name
from bfc_lightning.callbacks.measurements import NUM_POINTS
from bfc_lightning.data import HierarchicalData
from bfc_lightning.inputs import InputDistribution
from bfc_lightning.labels import Labels
from bfc_lightning.measures.battery import Measure
from bfc_lightning.module import HierarchicalLearner, default_optimizer
from bfc_lightning.private import forget_init_args_of_another_class, keys_without_null
from bfc_lightning.runs.folder import RunError, RunOptions
from bfc_lightning.runs.settings import PROBLEM_GROUPS, did_you_mean, flatten
from bfc_lightning.schemes import Scheme
from bfc_lightning.seeds import derive_seed
from bfc_lightning.targets import Target

register_unresolvable_import_paths(torch)  # activations such as torch.tanh

Plugin = plugins.Precision | ClusterEnvironment | plugins.LayerSync
# The generator that draws for a group of settings, if the group has no seed of its own.
_GENERATORS = {"inputs": "inputs", "target": "target", "model": "init", "data": "stream"}


def make_trainer(
    max_steps: PositiveInt = 4000,
    max_time: str | dict[str, int] | None = None,
    val_check_interval: int | float = 0.05,
    log_every_n_steps: PositiveInt = 64,
    gradient_clip_val: NonNegativeFloat | None = 0.02,
    gradient_clip_algorithm: Literal["norm", "value"] = "norm",
    accumulate_grad_batches: PositiveInt = 1,
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true",
    accelerator: str | accelerators.Accelerator = "auto",
    devices: int | str | list[int] = "auto",
    num_nodes: PositiveInt = 1,
    strategy: Literal["auto", "ddp"] | strategies.DDPStrategy = "auto",
    deterministic: bool | Literal["warn"] | None = None,
    benchmark: bool | None = None,
    detect_anomaly: bool = False,
    profiler: profilers.Profiler | str | None = None,
    plugins: Plugin | list[Plugin] | None = None,
    logger: loggers.Logger | list[loggers.Logger] | bool | None = None,
    callbacks: list[Callback] | Callback | None = None,
    enable_progress_bar: bool | None = True,
    default_root_dir: str | None = None,
) -> Trainer:
    """Builds a Trainer for a stream of samples without epochs.

    Args:
        max_steps: Optimizer steps of the run.
        max_time: Stop after this time, DD:HH:MM:SS, counted over resumes.
        val_check_interval: Batches between validations, or a fraction of the run.
        log_every_n_steps: Steps between two rows of the training loss.
        gradient_clip_val: Largest gradient. It is so low that nearly every gradient is scaled to
            it: powers of Gaussians make single batches wild, and Adam would remember them.
        gradient_clip_algorithm: Clip the norm of the gradient or each value.
        accumulate_grad_batches: Batches per optimizer step.
        precision: Precision of parameters and samples.
        accelerator: cpu, gpu, or auto.
        devices: Number of devices, or a list of their indices.
        num_nodes: Number of machines, under torchrun or srun.
        strategy: auto, ddp, or a DDPStrategy with arguments.
        deterministic: Whether PyTorch uses deterministic algorithms only.
        benchmark: Whether cuDNN selects algorithms by timing them.
        detect_anomaly: Whether autograd checks for NaN. Trains by autograd.
        profiler: simple, advanced, or a Profiler.
        plugins: Plugins of Lightning.
        logger: Loggers beside our own; false turns TensorBoard off.
        callbacks: Callbacks beside our own.
        enable_progress_bar: Whether progress is shown.
        default_root_dir: The run folder; set by the command.
    """
    return Trainer(
        **locals(),
        max_epochs=-1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class Study:
    """The settings of one command; `config` holds them with every default filled in."""

    config: Namespace

    def __init__(
        self,
        *,
        prog: str = "bfc fit",
        extra: Mapping[str, type] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        forget_init_args_of_another_class()
        self._options = options or {}
        self.parser = parser = problem_parser(prog)
        parser.add_argument("-c", "--config", action="config", help="Path to a config.")
        parser.add_class_arguments(_RunArguments)
        parser.add_function_arguments(make_trainer, "trainer", skip={"default_root_dir"})
        parser.add_subclass_arguments(
            Scheme, "scheme", help="Joint (all layers at once, the default), Progressive, ..."
        )
        parser.set_defaults({"scheme": {"class_path": "bfc_lightning.Joint"}})
        parser.add_class_arguments(RunOptions, "run")
        for name, keywords in self._options.items():
            parser.add_argument(f"--{name}", **keywords)
        for name, kind in (extra or {}).items():
            parser.add_subclass_arguments(kind, name, required=True, help="Class and arguments.")

    def read(self, given: Sequence[str] | Mapping[str, Any]) -> None:
        """Parses arguments or plain data."""
        if isinstance(given, Mapping):
            KnownKeys(self.parser).check_tree(given)
            self.config = self.parser.parse_object(dict(given))
        else:
            self.config = self.parser.parse_args(list(given))
        for key in ("labels", "scheme", *keys_without_null(self.parser)):
            if self.config.get(key, ...) is None:
                raise RunError(f"{key} must not be null.")
        trainer = self.config.trainer
        if (seed := self.config.seed_everything) >= 2**32:
            raise RunError(f"seed_everything must be less than {2**32}, got {seed}.")
        interval, batches = trainer.val_check_interval, trainer.accumulate_grad_batches
        is_fraction = isinstance(interval, float)
        if not 0 < interval <= 1 if is_fraction else interval < 1 or interval % batches:
            raise RunError(
                "trainer.val_check_interval must be a fraction of the run in (0, 1], or a number "
                "of batches that is a multiple of trainer.accumulate_grad_batches = "
                f"{batches}, got {interval}."
            )

    def settings(self, config: Namespace | None = None) -> dict[str, Any]:
        """Every setting as plain data."""
        own = self.config if config is None else config
        text = self.parser.dump(own, skip_unset=False, format="json", skip_validation=True)
        hidden = ("config", *self._options)
        return {key: value for key, value in json.loads(text).items() if key not in hidden}

    def resolved(self, seed: int) -> Namespace:
        """A copy of the settings for a seed, with the seed of every part filled in."""
        own = seeded(self.config, seed)
        own.seed_everything = seed
        return own


@dataclass
class _RunArguments:
    """Seed, measures and engine of a run.

    Args:
        seed_everything: Seed of the run; inputs, target, initialization and samples derive theirs.
        measures: Measures of your own, by class_path (docs/extending.md).
        num_measures: About how many times levels and features are measured, but some 17 times in
            each of several phases; 0 for never.
        engine: How steps are taken, equal to rounding: `autograd` is Lightning's own loop, `eager`
            takes several steps at a time, `compiled` compiles them; `auto` compiles if that saves
            time.
    """

    seed_everything: NonNegativeInt = 0
    measures: list[Measure] = field(default_factory=list)
    num_measures: NonNegativeInt = NUM_POINTS
    engine: Literal["auto", "compiled", "eager", "autograd"] = "auto"


def problem_parser(prog: str = "bfc") -> ArgumentParser:
    """A parser of learner and problem, whose `inputs`, `labels` and `target` are linked."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(HierarchicalLearner, "model")
    parser.add_class_arguments(HierarchicalData, "data")
    parser.add_subclass_arguments(
        InputDistribution, "inputs", help="The distribution of x.", required=True
    )
    parser.add_subclass_arguments(Labels, "labels", help="Regression or classification.")
    parser.add_subclass_arguments(Target, "target", help="The function to learn.", required=True)
    parser.set_defaults({
        "labels": {"class_path": "bfc_lightning.labels.Regression"},
        "model.optimizer": {
            "class_path": "torch.optim.Adam",
            "init_args": default_optimizer.keywords,
        },
    })
    link = partial(parser.link_arguments, apply_on="instantiate")
    link("inputs", "labels.init_args.inputs")
    link("labels", "target.init_args.inputs", compute_fn=lambda labels: labels.target_distribution)
    for group in ("model", "data"):
        link("target", f"{group}.target")
        link("labels", f"{group}.labels")
    return parser


def seeded(config: Namespace, seed: int) -> Namespace:
    """A copy in which every part without a seed has one that is derived from the run's."""
    own: Namespace = config.clone()
    for group, name in _GENERATORS.items():
        _fill(own[group], derive_seed(seed, name))
    _fill(own["labels"], own.get("target.init_args.seed", derive_seed(seed, "target")))
    return own


def _fill(part: object, seed: int) -> None:
    if isinstance(part, list):
        for number, entry in enumerate(part):
            _fill(entry, derive_seed(seed, number))
    elif isinstance(part, Namespace):
        if "seed" in vars(part) and part["seed"] is None:
            part["seed"] = seed
        for entry in vars(part).values():
            _fill(entry, seed)


class KnownKeys:
    """The keys of a parser; `open` are those below which the parser itself looks for more."""

    def __init__(self, parser: ArgumentParser) -> None:
        defaults = flatten(parser.get_defaults().as_dict())
        every = _with_parents(defaults)
        self.open = {*defaults, *(key for key in every if f"{key}.class_path" in defaults)}
        short = {key.replace(".init_args.", ".") for key in defaults}
        self.all = sorted({"help", "config", "print_config", *every, *short})
        groups = {key for key in every if "." not in key} - defaults.keys()
        self.sections = groups | {*PROBLEM_GROUPS}
        self.flags = [key for key, value in defaults.items() if isinstance(value, bool)]

    def check_tree(
        self, tree: Mapping[str, Any], place: Callable[[str], str] = lambda _: ""
    ) -> None:
        """Refuses unknown keys, and what is no mapping and no name of a class in their place."""
        flat = flatten(tree)
        for key, value in flat.items():
            name = key.rpartition(".")[2]
            is_section = key in self.sections or name in ("class_path", "init_args")
            if is_section and not isinstance(value, str | Mapping):
                kind = "the name of a class" if name == "class_path" else "a mapping"
                raise RunError(f"{key}{place(name)} must be {kind}, got {value!r}.")
        self.check(_with_parents(filter(None, flat)), place)

    def check(self, keys: Iterable[str], place: Callable[[str], str] = lambda _: "") -> None:
        """Refuses the first unknown key; arguments of classes are left to the parser."""
        for key in keys:
            if key not in self.all and not any(key.startswith(f"{each}.") for each in self.open):
                where = place(key.rpartition(".")[2])
                raise RunError(f"Unknown key {key!r}{where}.{did_you_mean(key, self.all)}")


def _with_parents(keys: Iterable[str]) -> list[str]:
    """Dotted keys, each after those above it."""
    return [*chain.from_iterable(accumulate(key.split("."), "{}.{}".format) for key in keys)]
