"""Makes neural_tangents_chain.json: kernels of chains by an independent implementation.

    pip install jax==0.4.38 neural-tangents==0.6.5
    python tests/oracles/neural_tangents_chain.py

Neither package is needed for the tests, which read the file.
"""

import json
from pathlib import Path

import jax
import neural_tangents
import numpy as np
from neural_tangents import stax

WEIGHT_STD = {"quadratic": 1.0, "relu": 2**0.5}
ACTIVATIONS = {"quadratic": lambda: stax.Monomial(2), "relu": stax.Relu}

jax.config.update("jax_enable_x64", True)
random = np.random.default_rng(0)
x, other = random.normal(size=(3, 4)), random.normal(size=(2, 4))
cases = []
for name, weight_std in WEIGHT_STD.items():
    for depth in (1, 2, 3):
        for bias_std in (0.0, 0.5):
            layers = [stax.Dense(1, weight_std, bias_std)]
            for _ in range(depth):
                layers += [ACTIVATIONS[name](), stax.Dense(1, weight_std, bias_std)]
            kernel = stax.serial(*layers)[2](x, other)
            cases.append({
                "activation": name,
                "depth": depth,
                "bias_std": bias_std,
                "ntk": np.asarray(kernel.ntk).tolist(),
                "nngp": np.asarray(kernel.nngp).tolist(),
            })
versions = {"jax": jax.__version__, "neural_tangents": neural_tangents.__version__}
content = {"versions": versions, "x": x.tolist(), "other": other.tolist(), "cases": cases}
path = Path(__file__).with_suffix(".json")
path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
