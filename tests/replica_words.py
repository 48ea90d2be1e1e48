"""Words that ask `bfc fit` for replicas."""

import json

RATE, DECAY = "model.optimizer.init_args.lr", "model.optimizer.init_args.weight_decay"
SCALES, PENALTY, SEED = "target.init_args.level_scales", "model.regularization", "seed_everything"
NOISE = "labels.init_args.noise_std"


def replicas(count: int, overrides: list | None = None) -> list[str]:
    words = ["--model.num_replicas", str(count)]
    return words if overrides is None else [*words, "--replica_overrides", json.dumps(overrides)]
