# make run    a fresh machine with Python >= 3.11 and make is enough: installs into .venv, fetches the model, plays, learns, promotes
# make test   format, lint, types, and every test that needs neither a GPU nor vLLM
# make check  the same with the fast tests only
# make faults kills the daemon and its children some 300 times, and writes what was left of them into docs/reliability.md

PYTHON ?= python3
BIN := .venv/bin
TORCH := torch==2.13.0
SOURCES := agent envs learners memory tests

.PHONY: run test check faults lint format clean

run: .venv/installed
	$(BIN)/perdure run --until-promoted

test: lint
	$(BIN)/python -m pytest -m "not gpu and not vllm"

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
	rm -rf .venv build *.egg-info src/*.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Perdure needs Python 3.11 or newer: make run PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

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
