# One command per job; each sets up what it needs, in this folder only.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
GPU_PYTHON ?= $(BIN)/python
GPU_READY := $(if $(filter $(BIN)/%,$(GPU_PYTHON)),$(READY))

.DEFAULT_GOAL := help
.PHONY: help demo stack check format test test-gpu bench-gpu test-full bench bench-serving bench-drift bench-overload fuzz tools clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## train, serve, send traffic, let it go wrong; options in ARGS="--seconds 60 --scenario noise"
	$(BIN)/sidecar demo $(ARGS)

stack: $(READY) tools ## sidecar, Prometheus and Alertmanager together under the demo's traffic, until Ctrl-C
	@$(BIN)/python tools/stack.py $(ARGS)

check: $(READY) ## formatting, lint, types, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check
	$(BIN)/python grafana/generate.py --check
	$(BIN)/python deploy/generate.py --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/check_links.py

format: $(READY) ## rewrite formatting, and everything that is generated
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python protos/generate.py
	$(BIN)/python grafana/generate.py
	$(BIN)/python deploy/generate.py
	$(BIN)/python docs/generate.py

tools: $(READY) ## Prometheus and Alertmanager into .tools/, without root
	$(BIN)/python tools/fetch.py

test: $(READY) tools ## all tests but the slow ones and those for a GPU
	$(PYTEST) -m 'not slow and not gpu' $(ARGS)

fuzz: $(READY) ## requests that are nearly right, many more of them than in the tests; EXAMPLES=15000 each
	FUZZ_EXAMPLES=$(or $(EXAMPLES),15000) $(PYTEST) tests/server/test_server_fuzz.py $(ARGS)

test-gpu: $(GPU_READY) ## the tests that need a GPU; GPU_PYTHON=python3 where that has torch, triton and pytest
	$(GPU_PYTHON) -m pytest -c tests/gpu/pytest.ini tests/gpu $(ARGS)

bench-gpu: $(GPU_READY) ## what observing costs on a GPU
	$(GPU_PYTHON) -m tests.bench.gpu

test-full: $(READY) ## all tests
	$(BIN)/python tools/fetch.py --newer
	$(BIN)/python -m tests.bench.clients
	$(PYTEST) $(ARGS)

bench: $(READY) ## the benchmarks: ratios side by side, JSON in build/bench/
	$(BIN)/python -m tests.bench $(ARGS)

bench-serving: $(READY) ## beside MLServer, Triton and bare grpc.aio; installs the peers under build/bench/venvs
	$(BIN)/python -m tests.bench serving

bench-drift: $(READY) ## detection delay beside KS, PSI, Evidently and online MMD; scenarios with known truth
	$(BIN)/python -m tests.bench drift drift_scenarios

bench-overload: $(READY) ## three times capacity for a minute, 20,000 unwanted requests, 100 restarts under load
	$(BIN)/python -m tests.bench overload

clean: ## remove everything that was built here
	rm -rf .venv .tools build .mypy_cache .ruff_cache .pytest_cache .hypothesis
