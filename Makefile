# make run    a fresh machine with Python >= 3.11 and make is enough: installs into .venv, fetches the model, plays, learns, promotes
# make test   format, lint, types, and every test that needs neither a GPU nor vLLM
# make check  the same with the fast tests only
# make test-sources  tests the sources of environments that need packages of their own, each in a virtual environment that it makes (2 GB)
# make faults kills the daemon and its children some 300 times, and writes what was left of them into docs/reliability.md

PYTHON ?= python3
BIN := .venv/bin
TORCH := torch==2.13.0
SOURCES := agent envs learners memory tests
# What each source is tested with: only what a child process that plays it needs, and never torch.
WITH_reasoning-gym := reasoning-gym==0.1.25
WITH_gem := gem-llm==0.1.0
WITH_verifiers := verifiers==0.4.0
WITH_openenv := openenv-core==0.3.0 websockets>=15
OTHERS := reasoning-gym gem verifiers openenv

.PHONY: run test test-sources check faults lint format clean

run: .venv/installed
	$(BIN)/perdure run --until-promoted

test: lint
	$(BIN)/python -m pytest -m "not gpu and not vllm"

test-sources: $(OTHERS:%=test-source-%)

test-source-%: .venv-%/installed
	PYTHONPATH=src:. .venv-$*/bin/python -m pytest -m "not gpu and not vllm" tests/sources/test_$(subst -,_,$*).py

check: lint
	$(BIN)/python -m pytest -m "not slow and not gpu and not vllm"

faults: .venv/installed-dev
	$(BIN)/python -m tests.faults

lint: .venv/installed-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy -p perdure

format: .venv/installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf .venv .venv-* build *.egg-info src/*.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Perdure needs Python 3.11 or newer: make run PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv-%/installed: Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Perdure needs Python 3.11 or newer: make test-sources PYTHON=python3.12")'
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install 'gymnasium>=1.2' numpy pytest pytest-timeout $(foreach one,$(WITH_$*),'$(one)')
	@touch $@

# A torch that is in .venv already is kept: have a CPU or CUDA build of your own there first, where you want one.
.venv/torch: .venv/bin/python
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install $(TORCH)
	@touch $@

.venv/installed: .venv/torch pyproject.toml deploy/constraints.txt
	$(BIN)/python -m pip install -c deploy/constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install -c deploy/constraints.txt -e '.[dev]'
	@touch $@
