# `make test` alone, on a fresh machine with Python 3.11+, sets everything up and passes.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first of these that runs and is new enough.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

VENV := .venv
BIN := $(VENV)/bin
GPU_VENV := .venv-gpu
GPU_BIN := $(GPU_VENV)/bin
STAMP := $(VENV)/.anchor-jax-installed
DEMO ?= demo
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help setup test test-slow test-gpu-compile demo lint format bench

help:  ## list the targets
	@sed -nE "s/^([a-z-]+):.*## *(.*)/\1\t\2/p" $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP)  ## make .venv with everything that tests and commands need

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; say PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

# Exact numbers are tested as users compile, everything else without LLVM's optimisation.
# Pytest ends with 5 where ARGS leaves one of the two nothing to run.
test: setup  ## all tests but the slow ones
	XLA_FLAGS= $(PYTEST) -m "exact and not slow" $(ARGS) || [ $$? = 5 ]
	$(PYTEST) -m "not exact and not slow" $(ARGS) || [ $$? = 5 ]

test-slow: setup  ## the slow ones: full-size networks, the wheel, a long video
	XLA_FLAGS= $(BIN)/python -m pytest -m slow $(ARGS)

# An environment of its own: where jax's CUDA plugin is installed, it looks for a GPU at each start.
test-gpu-compile:  ## compile for an A100, an H100 and a 4090 that need not be here (minutes, 2 GB)
	test -x $(GPU_BIN)/python || $(PYTHON) -m venv $(GPU_VENV)
	$(GPU_BIN)/python -m pip install --quiet --editable '.[plan,train]' 'pytest>=9,<10' 'beartype>=0.22'
	JAX_PLATFORMS=cpu XLA_FLAGS= $(GPU_BIN)/python -m pytest tests/gpu $(ARGS)

demo: setup  ## the shipped person, generated from motion never trained on: demo/report.html
	$(BIN)/anchor-jax demo --out $(DEMO) $(ARGS)

lint: setup  ## style and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup  ## put everything into the one style, and correct line numbers in docs/
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tests/unit/test_docs.py --update

bench: setup  ## our speed and memory against the same work in PyTorch (minutes)
	$(BIN)/python -m benchmarks.peer $(ARGS)
