"""Commands with something wrong in their arguments or in one of their config files."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import yaml

from bfc_lightning.experiments.reading import merged
from tests.faults.mutations import command_line, config_text

_GAUSSIAN = {"class_path": "Gaussian", "init_args": {"input_dim": 8}}
_SHORT = {"num_measures": 1, "trainer": {"max_steps": 2, "val_check_interval": 1}}
TINY = merged(yaml.safe_load(Path("tests/configs/tiny.yaml").read_text()), _SHORT)
_MIXTURE = {
    "class_path": "GaussianMixture",
    "init_args": {"components": [_GAUSSIAN, _GAUSSIAN], "weights": [0.25, 0.75]},
}
_ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.99]}}
_RUNS = [
    TINY,
    merged(TINY, {"model": {"optimizer": _ADAM, "regularization": 1e-3}}),
    {**TINY, "inputs": _MIXTURE, "labels": {"class_path": "Classification"}},
    merged(TINY, {"scheme": {"class_path": "Progressive", "init_args": {"steps": [1, 2]}}}),
    merged(TINY, {"model": {"num_replicas": 2, "activation": "torch.nn.ReLU"}}),
]
_KERNEL = {"class_path": "KernelRidge", "init_args": {"kernel": "rbf", "ridge": 1e-6}}
_BASELINE = merged(TINY, {"data": {"num_train_samples": 64}, "baseline": _KERNEL})
_LEARNERS = {"joint": {}, "kernel": {"baseline": _KERNEL, "data": {"num_train_samples": 32}}}
_EXPERIMENT = {
    "base": ["small.yaml"],
    "seeds": [0],
    "learners": merged(_LEARNERS, {"kernel": {"tune": {"baseline.init_args.ridge": [0.1, 0.2]}}}),
    "tuning": {"seeds": [100]},
    "limits": {"seconds": 60.0},
    "grid": {"ratio": {"key": "target.init_args.level_scales", "values": [0.1]}},
    "metrics": ["val/nmse"],
    "workers": 1,
}
_SWEEP = {"base": ["small.yaml"], "seeds": [0, 1], "grid": {"model.width": [4, 8]}, "workers": 1}
_TERMS = {
    "of": {"learner": "kernel", "metric": "val/nmse"},
    "to": {"learner": "joint", "metric": "val/nmse"},
}
_CLAIM = {
    "sentence": "Joint training is better than a kernel.",
    "source": "ours",
    "shows": "little",
    "does_not_show": "much",
    "runs": {"quick": "runs/one.yaml", "full": "runs/one.yaml"},
    "conditions": [{"what": "the kernel's error is larger", "ratio": _TERMS, "at_least": 1.5}],
}
_CLAIMED = {"base": ["../../small.yaml"], "seeds": [0], "learners": _LEARNERS, "workers": 1}
# How often each kind of command is drawn.
KINDS = {"fit": 8, "evaluate": 3, "baseline": 3, "compare": 3, "sweep": 2, "claims": 2}


@dataclass(frozen=True)
class Case:
    """A command; CONFIG and ROOT in its arguments stand for a file and a folder."""

    kind: str
    argv: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]


def draw_case(random: Random) -> Case:
    """A command with one to three mutations, of its arguments or of a config."""
    kind = random.choices(list(KINDS), list(KINDS.values()))[0]
    argv, trees = _whole(kind, random)
    mutated = None
    if random.random() < 0.4:
        argv = command_line(argv, random)
    else:
        mutated = random.choice(list(trees))
    files = {
        name: config_text(tree, random)
        if name == mutated
        else yaml.safe_dump(tree, sort_keys=False).encode()
        for name, tree in trees.items()
    }
    return Case(kind, tuple(argv), tuple(files.items()))


def _whole(kind: str, random: Random) -> tuple[list[str], dict[str, dict]]:
    """A command without a mistake: its arguments, and the content of its files."""
    if kind == "claims":
        files = {"claims/one.yaml": _CLAIM, "claims/runs/one.yaml": _CLAIMED}
        return ["claims", "--configs", "claims", "--run.root", "ROOT"], files
    trees = {
        "fit": random.choice(_RUNS),
        "baseline": _BASELINE,
        "evaluate": TINY,
        "compare": _EXPERIMENT,
        "sweep": _SWEEP,
    }
    argv = [kind, "-c", "CONFIG", "--run.root", "ROOT"]
    if kind == "evaluate":
        argv[0] = random.choice(["validate", "test", "predict"])
        argv += ["--run.name", "trained", "--ckpt_path", random.choice(["best", "last"])]
    if kind in ("compare", "sweep"):
        argv += ["--limits.seconds", "20"]
    return argv, {"mutated.yaml": trees[kind]}
