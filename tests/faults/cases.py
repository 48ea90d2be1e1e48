"""Commands of every kind, each with config files of its own and something wrong in one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import yaml
from hypothesis import strategies as st

from bfc_lightning.experiments.settings import merged
from tests.faults.mutations import command_line, config_text

# How often each kind is drawn.
KINDS = {
    "fit config": 24,
    "fit words": 14,
    "evaluation config": 8,
    "evaluation words": 6,
    "baseline config": 8,
    "baseline words": 5,
    "compare config": 5,
    "compare words": 4,
    "sweep config": 4,
    "sweep words": 3,
    "claims config": 3,
    "claims words": 3,
    "bench config": 3,
    "bench words": 3,
}
SMALL = {
    "num_measures": 1,
    "run": {"figures": False},
    "data": {
        "batch_size": 16,
        "num_val_samples": 64,
        "num_test_samples": 64,
        "num_predict_samples": 64,
        "eval_batch_size": 64,
    },
    "trainer": {
        "max_steps": 2,
        "val_check_interval": 1,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
    },
}
_GAUSSIAN = {"class_path": "Gaussian", "init_args": {"input_dim": 8}}
TINY = {
    "inputs": _GAUSSIAN,
    "target": {
        "class_path": "HierarchicalTarget",
        "init_args": {"widths": [3, 2], "level_scales": 0.5},
    },
    "model": {"width": 8},
    **SMALL,
}
_MIXTURE = {
    "class_path": "GaussianMixture",
    "init_args": {
        "components": [
            _GAUSSIAN,
            {"class_path": "Gaussian", "init_args": {"input_dim": 8, "mean": 0.5}},
        ],
        "weights": [0.25, 0.75],
    },
}
_ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.99]}}
_STEPS = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3}}
# Small runs that together use most of what a config can say.
_TINY_ONES = [
    TINY,
    merged(TINY, {"model": {"optimizer": _ADAM, "lr_scheduler": _STEPS, "regularization": 1e-3}}),
    {**TINY, "inputs": _MIXTURE, "labels": {"class_path": "Classification"}},
    merged(TINY, {"scheme": {"class_path": "Progressive", "init_args": {"steps": [1, 2]}}}),
    merged(TINY, {"model": {"num_replicas": 2, "activation": "torch.nn.ReLU"}}),
]
_BASELINE = {"class_path": "KernelRidge", "init_args": {"kernel": "rbf", "ridge": 1e-6}}
_FITTED = merged(TINY, {"data": {"num_train_samples": 64}})
_BASELINES = [
    merged(_FITTED, {"baseline": _BASELINE}),
    merged(_FITTED, {"baseline": {"class_path": "RandomFeatures", "init_args": {"ridge": 1e-3}}}),
    merged(_FITTED, {"baseline": {"class_path": "SpectralMethod", "init_args": {"ridge": 0.1}}}),
]
_COMPARISON = {
    "base": ["small.yaml"],
    "seeds": [0],
    "learners": {
        "joint": {},
        "kernel": {
            "baseline": _BASELINE,
            "data": {"num_train_samples": 32},
            "tune": {"baseline.init_args.ridge": [1e-3, 1e-2]},
        },
    },
    "tuning": {"seeds": [100]},
    "limits": {"seconds": 60.0},
    "grid": {"ratio": {"key": "target.init_args.level_scales", "values": [0.1]}},
    "metrics": ["val/nmse"],
    "workers": 1,
}
_SWEEP = {
    "base": ["small.yaml"],
    "seeds": [0, 1],
    "grid": {"model.width": [4, 8]},
    "metrics": ["val/nmse"],
    "limits": {"seconds": 60.0},
    "workers": 1,
    "together": True,
}
_CLAIM = {
    "sentence": "Joint training is better than a kernel.",
    "source": "ours",
    "shows": "little",
    "does_not_show": "much",
    "runs": {"quick": "runs/one.yaml", "full": "runs/one.yaml"},
    "conditions": [
        {
            "what": "the error of the kernel is larger",
            "ratio": {
                "of": {"learner": "kernel", "metric": "val/nmse"},
                "to": {"learner": "joint", "metric": "val/nmse"},
            },
            "at_least": 1.5,
        }
    ],
}
_CLAIMED = {
    "base": ["../../small.yaml"],
    "seeds": [0, 1, 2],
    "learners": {
        "joint": {},
        "kernel": {"baseline": _BASELINE, "data": {"num_train_samples": 32}},
    },
    "limits": {"seconds": 60.0},
    "workers": 1,
}
_BENCHED = merged(TINY, {"num_measures": 0, "trainer": {"max_steps": 20, "val_check_interval": 5}})
_FILES = {"CONFIG": "mutated.yaml", "CLAIM": "claims/one.yaml", "RUNS": "claims/runs/one.yaml"}


@dataclass(frozen=True)
class Case:
    """A command of `bfc`; CONFIG and ROOT in its words stand for a file and a folder.

    Attributes:
        kind: one of `KINDS`.
        words: after `bfc`.
        files: path and content of what it reads.
    """

    kind: str
    words: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]

    @property
    def command(self) -> str:
        return self.words[0]


@st.composite
def cases(draw: Callable) -> Case:
    """Any command that has files and words enough, and a mistake or two."""
    # Chosen by a seed: left to itself, hypothesis prefers what is simple, and tries little else.
    random = draw(st.randoms(use_true_random=True))
    strange = draw(_STRANGE)
    kind = random.choices(list(KINDS), list(KINDS.values()))[0]
    words, trees = _whole(kind.split()[0], random)
    mutated = None
    if kind.endswith("words"):
        words = command_line(words, random, strange)
    else:
        mutated = random.choice(list(trees))
    files = {
        _FILES[name]: config_text(tree, random, strange)
        if name == mutated
        else yaml.safe_dump(tree, sort_keys=False).encode()
        for name, tree in trees.items()
    }
    return Case(kind, tuple(words), tuple(files.items()))


_STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def _whole(command: str, random: Random) -> tuple[list[str], dict[str, dict]]:
    """A command without a mistake: its words, and what its files hold."""
    words = ["-c", "CONFIG", "--run.root", "ROOT"]
    if command == "fit":
        return ["fit", *words], {"CONFIG": random.choice([*_TINY_ONES, *_shipped()])}
    if command == "evaluation":
        checkpoint = ["--run.name", "trained", "--ckpt_path", random.choice(["best", "last"])]
        task = random.choice(["validate", "test", "predict"])
        return [task, *words, *checkpoint], {"CONFIG": TINY}
    if command == "baseline":
        return ["baseline", *words], {"CONFIG": random.choice(_BASELINES)}
    if command == "bench":
        contestants = random.choice(["[fit]", "[bare]", "[fit,limit]"])
        more = ["--rounds", "1", "--contestants", contestants]
        return ["bench", *words, *more], {"CONFIG": _BENCHED}
    if command == "claims":
        words = ["--configs", "claims", "--run.root", "ROOT"]
        return ["claims", *words], {"CLAIM": _CLAIM, "RUNS": _CLAIMED}
    limit = ["--limits.seconds", "20"] if random.random() < 0.8 else []
    return [command, *words, *limit], {"CONFIG": _SWEEP if command == "sweep" else _COMPARISON}


def _shipped() -> list[dict]:
    """Configs that the project comes with, made small."""
    folders = [Path("configs"), Path("configs/demos"), Path("configs/three_layer_targets")]
    paths = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    trees = [yaml.safe_load(path.read_text()) for path in paths]
    return [merged(tree, SMALL) for tree in trees if "inputs" in tree]  # others are laid over them
