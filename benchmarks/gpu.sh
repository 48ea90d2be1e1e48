#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes: equality of the engines, replicas, bf16 and
# CUDA graphs as tests, and training steps beside JAX and bare loops.
#   benchmarks/gpu.sh [FOLDER]      writes FOLDER/tests.txt, bench.json and bench.md; logs/gpu by default
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-logs/gpu}
python=${PYTHON:-.venv/bin/python}
"$python" -c 'import torch; assert torch.cuda.is_available(), "there is no GPU"'
mkdir -p "$folder"
timeout 240 "$python" -m pytest -q -m gpu tests/test_gpu.py | tee "$folder/tests.txt"
timeout 240 "$python" -m benchmarks --sizes tiny_gpu small_gpu --rounds 3 --out "$folder" \
  --contestants fit fit_eager bare compiled jax limit
