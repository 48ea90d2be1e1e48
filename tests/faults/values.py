"""Values for configs and arguments: some that fit a key, and some that fit none."""

NASTY = [
    *(None, True, False, "", " ", "ü☃", "many", "null", "x" * 400, "a\nb", "\x07", "${HOME}"),
    *(0, -1, 1, 2, 7, 0.5, -0.5, 1e-30, 1e30, 1e308, float("nan"), float("inf"), float("-inf")),
    *(10**5, 10**9, 2**31, 2**63, 10**30, -(2**63) - 1),
    *([], [[]], {}, [None], [1], [0.1, 0.2], ["a"], {"a": {"b": [None, {}]}}, [[1, 2], [3]]),
    *({"class_path": None}, {"class_path": "Gaussian"}, {"init_args": {"depth": 1}}),
    *({"class_path": ""}, {"class_path": "torch.nn.Linear", "init_args": {}}, {"class_path": 3}),
    *("os.system", "torch.nn.Nope", "bfc_lightning", "1.2.3", ".", "01:00", "2001-01-01", "auto"),
]
# By the group that they are for.
CLASSES = {
    "inputs": ["Gaussian", "GaussianMixture", "Hypercube", "InputDistribution"],
    "target": [
        *("HierarchicalTarget", "RichRepresentation", "BackwardCorrection", "SingleIndex", "Sight"),
        *("QuadraticFeature", "DepthSeparation", "Target", "torch.nn.Linear", "PaperTarget"),
        *("HardForKernels", "HardForTwoLayers", "Staircase"),
    ],
    "labels": ["Regression", "Classification", "bfc_lightning.labels.Classification", "Labels"],
    "scheme": ["Joint", "Progressive", "Layerwise", "bfc_lightning.Layerwise", "Scheme"],
    "activation": [
        *("torch.nn.ReLU", "torch.nn.GELU", "torch.nn.Softmax", "torch.nn.Identity"),
        *("torch.nn.Dropout", "torch.nn.BatchNorm1d", "torch.nn.Bilinear", "torch.nn.PReLU"),
    ],
    "optimizer": [
        *("torch.optim.SGD", "torch.optim.Adam", "torch.optim.AdamW", "torch.optim.LBFGS"),
        *("torch.optim.SparseAdam", "torch.optim.Rprop", "torch.optim.Optimizer", "Adagrad"),
    ],
    "lr_scheduler": [
        *("torch.optim.lr_scheduler.OneCycleLR", "torch.optim.lr_scheduler.CyclicLR"),
        *("torch.optim.lr_scheduler.StepLR", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
        *("torch.optim.lr_scheduler.LambdaLR", "torch.optim.lr_scheduler.SequentialLR"),
    ],
    "baseline": [
        *("KernelRidge", "LearnerNTK", "RandomFeatures", "SequentialKernels", "SpectralMethod"),
        *("EmpiricalNTK", "ReLUChainNTK", "RecursiveFeatureMachine", "ThreeLayer", "TwoLayer"),
        *("Baseline", "bfc_lightning.baselines.KernelRidge"),
    ],
    "kernel": ["rbf", "polynomial", "laplace", "linear"],
    "metric": ["val/nmse", "features/residual_1", "nope"],
    "learner": ["joint", "kernel", "nobody"],
    "key": ["model.width", "data.batch_size", "target", "nope.key", "trainer.max_steps"],
}
_STOPPING = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/acc"}}
_AVERAGING = {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.1}}
_ADAM = {"class_path": "torch.optim.Adam", "init_args": {"betas": [0.9, 1.5]}}
# Keys of `bfc fit` and `bfc baseline` with values of their types, in range and out of it.
SETTINGS = {
    "seed_everything": [0, 7, 2**32 - 1, 2**32, -1],
    "model.width": [1, 9, [8, 4], [8, 4, 2], [0, 8], 0, -3, 10**7],
    "model.depth": [1, 2, 3, 5, 0, -1, 60],
    "model.activation": CLASSES["activation"],
    "model.linearized": [True, False],
    "model.regularization": [0.0, 1e-3, [1e-3, 1e-3], [1e-3, 1e-3, 1e-3], -1.0, 1e30],
    "model.optimizer": [*CLASSES["optimizer"], _ADAM],
    "model.optimizer.init_args.lr": [1e-3, 0.0, -1e-3, 1e3, 1e300],
    "model.lr_scheduler": [None, *CLASSES["lr_scheduler"]],
    "model.num_replicas": [1, 2, 3, 0, -1, 5000],
    "inputs.init_args.input_dim": [4, 8, 9, 1, 2, 0, -1, 300],
    "inputs.init_args.eigenvalues": [[1.0] * 8, [1.0] * 7, [], [1.0] * 7 + [-1.0], [0.0] * 8],
    "target": ["Sight", "SingleIndex", "BackwardCorrection", "QuadraticFeature", "Nope"],
    "target.init_args.widths": [[3, 2], [4], [2, 2, 2], [3, 9], [], [0, 1], "roots"],
    "target.init_args.level_scales": [0.3, [1.0, 0.2], [1.0], 0.0, -0.5, 1e-20, 1e20],
    "target.init_args.signs": ["random", "positive", [[1, -1, 1], [1, 1]], [[1]], [[2, 0, 1]]],
    "labels": ["Regression", "Classification", "Nope"],
    "scheme": ["Joint", "Progressive", "Layerwise"],
    "scheme.init_args.steps": [1, 2, [1, 1], [1, 1, 1], [2], 0, -1],
    "scheme.init_args.freeze": [{"1": 1}, {2: 1}, {9: 1}, {1: -1}, {}],
    "data.batch_size": [16, 8, 4, 12, 30, 0, -16, 10**9],
    "data.num_train_samples": [64, 16, 100, 17, 0, -1, 10**9],
    "num_measures": [0, 1, 5, 10**9, -1],
    "trainer.max_steps": [1, 2, 3, 0, -1, 10**6],
    "trainer.val_check_interval": [1, 2, 5, 0.5, 1.0, 0.0, -1, 1.5],
    "trainer.precision": ["32-true", "64-true", "bf16-mixed", "16-mixed", 64],
    "trainer.devices": [1, "auto", 3, 0, -1, [0], "1"],
    "trainer.accumulate_grad_batches": [1, 2, 3, 0],
    "trainer.callbacks": [[_STOPPING], [_AVERAGING], [{"class_path": "Timer"}]],
    "trainer.logger": [True, False, "CSVLogger", [{"class_path": "WandbLogger"}]],
    "trainer.max_time": ["00:00:00:00", "00:00:00:05", {"seconds": 0}, "soon"],
    "run.name": ["mine", "a/b", "..", "x" * 300, ""],
    "run.root": ["here", "/dev/null", "/proc"],
    "resume": ["auto", ".", "nowhere"],
    "baseline": CLASSES["baseline"],
    "baseline.init_args.ridge": [1e-3, 0.0, -1.0, [1e-3, 1e-3]],
    "baseline.init_args.width": [16, 0, -1],
}
PIECES = [
    *(b"\t", b"\x00", b"\xff\xfe", b"{", b"[", b'"', b"&a ", b"*a", b"!!int ", b"\n- ", b": ")
]
ODD_FILES = [
    *(b"model: &a {width: *a}\n", b"model: &a [*a]\n", b"? [1, 2]\n: 3\n", b"? {a: 1}\n: 3\n"),
    *(b"model: !!python/object/apply:os.system [ls]\n", b"--- {}\n--- {}\n", b"%YAML 9.9\n---\n"),
    *(b"model: " + b"[" * 2000 + b"\n", bytes(range(256)), b""),
]
# Options of any command, and those of one command.
_RUN = [
    *("--help", "--nope", "--nope=1", "-x", "-c", "--config", "---", "--", "", "=", "--=", "fit"),
    *("--config=configs", "--config={}", "--config=", "-c=", "--print_config", "-cCONFIG"),
    *("--run.name", "--run.name=", "--run.name=..", "--run.name=a/b", "--run.name=ü ☃"),
    *("--run.root=", "--run.root=/dev/null", "--run.root=/proc", "--run.root=a\x00b", "--run=3"),
]
_EVALUATE = ["--ckpt_path=best", "--ckpt_path=CONFIG", "--ckpt_path", "--ckpt_path=/"]
_EXPERIMENT = [
    *("--seeds=[0]", "--seeds=[]", "--seeds=0", "--seeds=[0,0]", "--seeds=[-1]", "--seeds=[a]"),
    *("--limits.seconds=-1", "--limits.seconds=1e-9", "--limits.gigabytes=1e-9", "--report"),
    *("--learners={}", "--learners={a: 3}", "--learners={a: {}, b: {model: {width: 0}}}"),
    *("--grid={}", "--grid={a: 3}", "--grid={a: {key: model.width, values: [2, x]}}", "--grid=[]"),
    *("--grid={model.width: {a: 2, 'b=': 3}}", "--grid={3: [1]}", "--points=[3]", "--points={}"),
    *("--tuning.trials=3", "--base=[nowhere.yaml]", "--base=small.yaml", "--base=[]"),
    *("--list=true", "--report=yes", "--figures=3", "--figures=[pdf]", "--run.overwrite"),
]
OPTIONS = {
    "any": _RUN,
    "fit": [
        *("--resume", "--resume=.", "--seed_everything=1e3", "--seed_everything", "--trainer=3"),
        *("--trainer.callbacks+=Nope", "--trainer.callbacks=[3]", "--trainer.logger=[{}]"),
        *("--target=Nope", "--target.help=Sight", "--target.widths=[2,2]", "--print_config=nope"),
        *("--model.optimizer=torch.optim.Adam(lr=3)", "--scheme.steps=1", "--measures=[Nope]"),
    ],
    "validate": _EVALUATE,
    "test": _EVALUATE,
    "predict": _EVALUATE,
    "compare": _EXPERIMENT,
    "sweep": _EXPERIMENT,
    "claims": [
        *("--profile=full", "--profile=slow", "--list=true", "--list", "one", "nobody", "one one"),
        *("--seeds=[0]", "--seeds=[]", "--seeds=[-1]", "--seeds=0", "--seeds=[a]", "--workers=0"),
    ],
}
