# Everything runs in .venv, which the first command makes.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-slurm test-faults check bench docs

help:  ## these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | column -t -s:

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## install, train the quickstart (under a minute), show the result
	$(BIN)/bfc fit -c configs/quickstart.yaml

test: $(INSTALLED)  ## the tests but for the slow ones (two minutes on two cores)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-all: test  ## every test that this machine can run, the slow ones last (a quarter of an hour)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

test-slurm: $(INSTALLED)  ## experiments on a SLURM cluster of two nodes that is started here (needs slurmctld and root)
	$(BIN)/python -m pytest -m slurm tests/slurm

test-faults: $(INSTALLED)  ## kills at random moments and mutated input, counted (half an hour on two cores)
	$(BIN)/python -m tests.faults

check: $(INSTALLED)  ## style, types, order of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## time of a training step beside bare loops in PyTorch and JAX; needs an idle machine
	$(BIN)/python -m benchmarks

# Single parts, by pytest-benchmark: .venv/bin/python -m pytest benchmarks

docs: $(INSTALLED)  ## make the README's picture and docs/claims.md again (an hour on two cores)
	$(BIN)/bfc compare -c configs/compare/cascade.yaml --run.root .venv/docs
	cp .venv/docs/cascade/compare.png docs/cascade.png
	$(BIN)/bfc claims --run.root .venv/docs
	cp .venv/docs/claims-quick/claims.md .venv/docs/claims-quick/claims.json docs/
