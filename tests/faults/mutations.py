"""Configs and command lines with mistakes in them, by hypothesis."""

import copy
from pathlib import Path

import yaml
from hypothesis import strategies as st

CONFIGS = Path("configs")
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
NASTY = [
    *(None, True, False, "", " ", "ü☃", "many", "null", "x" * 400, "a\nb", "\x07", "${HOME}"),
    *(0, -1, 1, 2, 3, 7, 0.5, -0.5, 1e-30, 1e30, 1e308, float("nan"), float("inf"), float("-inf")),
    *(10**5, 10**9, 2**31, 2**63, 10**30, -(2**63) - 1),
    *([], [[]], {}, [None], [1], [0.1, 0.2], ["a"], {"a": {"b": [None, {}]}}, [[1, 2], [3]]),
    *({"class_path": None}, {"class_path": "Gaussian"}, {"init_args": {"depth": 1}}),
    *("os.system", "torch.nn.Nope", "bfc_lightning", "bfc_lightning.Nope", "1.2.3", ".", "..a"),
    *("collections.OrderedDict", "torch.nn.Linear", "torch.nn.ReLU", "torch.nn.Softmax"),
    *("Gaussian", "GaussianMixture", "RichRepresentation", "BackwardCorrection", "Sight"),
    *("SingleIndex", "DepthSeparation", "Classification", "Progressive", "Layerwise"),
    *("torch.optim.SGD", "torch.optim.LBFGS", "torch.optim.SparseAdam", "theory", "auto", "auto:"),
    *("64-true", "bf16-mixed", "fast", "plain", "cuda", "mps", "ddp", "01:00", "2001-01-01"),
]
WORDS_OF_CONFIGS = [
    *("Gaussian", "GaussianMixture", "HierarchicalTarget", "RichRepresentation", "Sight", "theory"),
    *("BackwardCorrection", "SingleIndex", "QuadraticFeature", "DepthSeparation", "Classification"),
    *(
        "torch.nn.ReLU",
        "torch.nn.GELU",
        "torch.nn.Softmax",
        "torch.nn.Identity",
        "TruncatedQuadratic",
    ),
    *("torch.optim.SGD", "torch.optim.AdamW", "torch.optim.LBFGS", "torch.optim.SparseAdam"),
    *("torch.optim.lr_scheduler.OneCycleLR", "torch.optim.lr_scheduler.CyclicLR", "Progressive"),
    *("torch.optim.lr_scheduler.StepLR", "Layerwise", "cpu", "random", "positive", "relu", "tanh"),
]
EXTRA_KEYS = [
    "model.width", "model.depth", "model.activation", "model.optimizer", "model.lr_scheduler",
    "model.regularization", "model.num_replicas", "model.linearized", "model.final_temperature",
    "model.signs", "inputs.init_args.input_dim", "inputs.init_args.mean", "data.num_shards",
    "inputs.init_args.eigenvalues", "inputs.init_args.condition_number", "target.init_args.widths",
    "target.init_args.level_scales", "target.init_args.depth", "target.init_args.normalize",
    "target.init_args.weights", "target.init_args.seed", "labels", "labels.init_args.noise_std",
    "scheme", "scheme.init_args.steps", "scheme.init_args.freeze", "data.batch_size",
    "data.num_train_samples", "data.num_val_samples", "data.seed", "data.eval_batch_size",
    "trainer.max_steps", "trainer.val_check_interval", "trainer.precision", "trainer.devices",
    "trainer.accelerator", "trainer.strategy", "trainer.gradient_clip_val", "trainer.callbacks",
    "trainer.gradient_clip_algorithm", "trainer.accumulate_grad_batches", "trainer.logger",
    "trainer.log_every_n_steps", "trainer.limit_val_batches", "trainer.num_nodes", "run.name",
    "trainer.max_time", "trainer.fast_dev_run", "trainer.plugins", "trainer.profiler", "run.root",
    "trainer.default_root_dir", "run.threads", "run.overwrite", "seed_everything", "measures",
    "num_measures", "training_path", "replica_overrides", "resume", "ckpt_path", "config",
]  # fmt: skip


def shipped(folder: str = ".") -> list[Path]:
    """Configs that the project comes with."""
    return sorted((CONFIGS / folder).glob("*.yaml"))


def merged(base: dict, over: dict) -> dict:
    result = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def _places(tree: object, above: tuple = ()) -> list[tuple]:
    """Every place in a tree of mappings and lists, but its root."""
    keys = (
        tree.keys()
        if isinstance(tree, dict)
        else range(len(tree))
        if isinstance(tree, list)
        else ()
    )
    return [place for key in keys for place in [(*above, key), *_places(tree[key], (*above, key))]]


@st.composite
def mutated_trees(draw, tree: dict) -> dict:
    """One to three changes of a config, half of them to a value of the same type."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        places = _places(tree)
        kind = draw(
            st.sampled_from([*["nudge"] * 6, "set", "set", "add", "delete", "rename", "wrap"])
        )
        if kind == "add" or not places:
            _set_dotted(tree, draw(st.sampled_from(EXTRA_KEYS)), draw(st.sampled_from(NASTY)))
        else:
            _change(draw, tree, draw(st.sampled_from(places)), kind)
    return tree


def _change(draw, tree: dict, place: tuple, kind: str) -> None:
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    key = place[-1]
    if kind == "delete":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[draw(st.sampled_from([f"{key}x", "", "ü", 3, None, str(key).upper()]))] = parent.pop(
            key
        )
    elif kind == "nudge":
        alike = _alike(parent[key])
        parent[key] = copy.deepcopy(draw(st.sampled_from(alike or NASTY)))
    elif kind == "wrap":
        parent[key] = draw(
            st.sampled_from([[parent[key]], {"init_args": parent[key]}, str(parent[key])])
        )
    else:
        parent[key] = copy.deepcopy(draw(st.sampled_from(NASTY)))


def _alike(value: object) -> list:
    """Other values of the same type; none for a mapping."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, list):
        return [value[:1], value[::-1], value + value[:1], [*value, *value], []]
    if isinstance(value, int | float):
        kind = type(value)
        numbers = [kind(each) for each in (0, 1, 2, 3, 5, 8, 64, -1, 1000, 10**6, 10**12, 2**63)]
        return numbers if kind is int else [*numbers, value / 7, 1e300, float("nan"), float("inf")]
    return WORDS_OF_CONFIGS if isinstance(value, str) else []


def _set_dotted(tree: dict, dotted: str, value: object) -> None:
    *above, last = dotted.split(".")
    for key in above:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = copy.deepcopy(value)


@st.composite
def config_texts(draw, tree: dict) -> bytes:
    """A config as it may lie on a disk: mostly YAML with other content, at times no YAML."""
    text = yaml.safe_dump(draw(mutated_trees(tree)), sort_keys=False, allow_unicode=True).encode()
    kind = draw(st.sampled_from(["yaml"] * 7 + ["cut", "insert", "twice", "odd"]))
    where = draw(st.integers(0, len(text)))
    if kind == "cut":
        return text[:where]
    if kind == "insert":
        pieces = [
            b"\t",
            b"\x00",
            b"\xff\xfe",
            b"{",
            b"[",
            b'"',
            b"&a ",
            b"*a",
            b"!!int ",
            b"\n- ",
            b": ",
        ]
        return text[:where] + draw(st.sampled_from(pieces)) + text[where:]
    if kind == "twice":
        return text + text[text.find(b"\n", where) + 1 :]
    if kind == "odd":
        return draw(st.sampled_from(ODD_FILES)) + draw(st.sampled_from([b"", text]))
    return text


ODD_FILES = [
    b"model: &a {width: *a}\n",
    b"model: &a [*a]\n",
    b"model: !!python/object/apply:os.system [ls]\n",
    b"? [1, 2]\n: 3\n",
    b"? {a: 1}\n: 3\n",
    b"--- {}\n--- {}\n",
    b"%YAML 9.9\n---\n",
    b"model: " + b"[" * 2000 + b"\n",
    b"\n".join(b"k%d: &k%d [%s]" % (n, n, b",".join([b"*k%d" % (n - 1)] * 9) if n else b"1") for n in range(9)) + b"\n",
    bytes(range(256)),
    b"",
]  # fmt: skip
WORDS = [
    "--help", "--nope", "--nope=1", "-x", "-c", "--config", "--resume", "--resume=auto", "--resume=.",
    "--resume=configs", "--run.name", "--run.name=", "--run.name=..", "--run.name=a/b",
    "--run.name=" + "x" * 300, "--run.name=ü ☃", "--run.name=a\nb", "--run.name=-c", "--run.root=",
    "--run.root=/dev/null", "--run.root=/proc", "--run.root=a\x00b", "--seed_everything=1e3", "--seed_everything=true",
    "--seed_everything=-1", "--seed_everything", "--trainer", "--trainer=3", "--model=null",
    "--model.widths=3", "--model.width=", "--trainer.max_steps", "--trainer.max_steps=1e30",
    "--trainer.callbacks+=Nope", "--trainer.callbacks=[3]", "--trainer.logger=[{}]", "---", "--", "",
    "--data.batch_size=16,16", "--target", "--target=Nope", "--target.help", "--target.help=Sight",
    "--print_config", "--print_config=nope", "fit", "=", "--=", "--model.lr=3", "--optimizer=Adam",
    "--model.optimizer=torch.optim.Adam(lr=3)", "--ckpt_path=last", "--ckpt_path=best", "--ckpt_path",
    "--ckpt_path=configs/depth3.yaml", "--ckpt_path=/", "--trainer.precision=8", "--training_path=slow",
    "--run.threads=1000000", "--trainer.devices=[0,0]", "--trainer.devices=-1", "--trainer.num_nodes=0",
    "--replica_overrides=[{}]", "--replica_overrides=[{model.width: 3}]", "--model.num_replicas=2",
    "--model.num_replicas=0", "--measures=[Nope]", "--scheme.freeze={a: b}", "--config=configs",
    "--config={}", "--config=", "-c=", "--trainer.max_time=never", "--trainer.default_root_dir=/proc/x",
]  # fmt: skip


@st.composite
def command_lines(draw, words: list[str]) -> list[str]:
    """Words left out, doubled, swapped, strange ones put in; the command itself mostly stays."""
    words = list(words)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["add", "add", "add", "drop", "double", "swap"]))
        at = draw(st.integers(1, len(words)))
        if kind == "add" or at == len(words):
            words.insert(at, draw(st.sampled_from(WORDS)))
        elif kind == "drop":
            del words[at]
        elif kind == "double":
            words.insert(at, words[at])
        else:
            words[at], words[1] = words[1], words[at]
    return words
