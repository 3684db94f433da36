# `make demo` and `make test` set everything up by themselves; `make help` lists the rest.
SHELL := /bin/bash -o pipefail
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell tools/find-python)
EXTRAS := operator trainer sidecar rollout sandbox local bench dev
SETUP := $(VENV)/.set-up

.PHONY: help setup demo test strikes verify generate docs images lock clean test-gpu ablations chaos cluster-build cluster cluster-down
help: ## List the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(SETUP) ## Make the Python 3.12 environment from the lock
$(SETUP): pyproject.toml requirements/cpu.lock tools/set-up
	tools/set-up "$(PYTHON)" $(VENV) requirements/cpu.lock
	touch $(SETUP)

demo: $(SETUP) ## Train a small model by reinforcement learning on this machine (about 5 minutes, no GPU)
	$(BIN)/tandem run examples/addition.yaml --name addition-demo --overwrite

test: $(SETUP) cluster-build ## Run all tests but the long ones (22 minutes on 2 cores)
	$(BIN)/pytest -n 2 -m 'not long' --reruns 1 --rerun-show-tracebacks -raR

strikes: $(SETUP) cluster-build ## Run the long tests: strikes at jobs on Kubernetes, Helm, more layouts and attacks (half an hour and more)
	$(BIN)/pytest -m long

test-gpu: $(SETUP) ## Run what only a GPU can show
	$(BIN)/pytest tests/gpu

ablations: $(SETUP) ## Run what is missing of the ablations and write docs/ablations.md (an hour for all)
	$(BIN)/python -m bench.ablations

chaos: $(SETUP) ## Strike at running jobs, check that nothing is lost, measure recovery (45 minutes)
	$(BIN)/python -m bench.chaos

cluster-build: $(SETUP) ## Build a Kubernetes for tests from Go modules into ~/.cache/tandem (20 minutes, once)
	tools/install-debian-packages && $(BIN)/python -m tools.cluster build

NODES ?= 1
cluster: cluster-build ## Start a real Kubernetes on this machine, in namespaces of its own (NODES=2: two nodes)
	$(BIN)/python -m tools.cluster up --nodes $(NODES)

images: ## Build the images of all parts for CPUs, by buildah and without a registry (PARTS="operator rollout": some)
	images/build $(PARTS)

cluster-down: ## End it, without a trace
	$(BIN)/python -m tools.cluster down

verify: $(SETUP) ## Lint, types, layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy core operator trainer sidecar rollout sandbox local bench tools
	$(BIN)/lint-imports
	$(BIN)/python -m tandem_operator.generate --check
	$(BIN)/python -m tools.chart --check
	$(BIN)/python -m tools.reference --check
	tools/build-docs $(BIN)/python
	tools/check-tree

generate: $(SETUP) ## Write CRD, chart, manifests and the reference pages anew
	$(BIN)/python -m tandem_operator.generate
	$(BIN)/python -m tools.chart
	$(BIN)/python -m tools.reference

docs: $(SETUP) ## Build the documentation site into .cache/site, without a network
	tools/build-docs $(BIN)/python

LOCK = $(BIN)/uv pip compile -q pyproject.toml $(addprefix --extra ,$(EXTRAS)) --generate-hashes --python-version 3.12 --no-header --no-annotate
lock: $(SETUP) ## Resolve the dependencies anew
	$(LOCK) --extra cpu -o requirements/cpu.lock
	$(LOCK) --extra gpu -o requirements/gpu.lock

clean: ## Remove the environment
	rm -rf $(VENV)
