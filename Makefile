# Every target sets up what it needs. `make help` lists them.
UV_CACHE ?= .cache/uv
PYTHON ?= python3.11
BIN := .venv/bin
UV := UV_CACHE_DIR=$(UV_CACHE) .bootstrap/venv/bin/uv
STAMP := .venv/.installed
ENV := OMP_NUM_THREADS=1 DS_ACCELERATOR=cpu
PARALLEL := -n auto --dist worksteal
PIN := pip compile --quiet --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header
KIND_CLUSTER := reknit
TAG := 0.1.0

.DEFAULT_GOAL := help
.PHONY: help setup test unit simulation runtime lint type contracts generated gen pins test-long test-apiserver \
	e2e e2e-kind cluster-up cluster-down images kind-up kind-down demo bench-communication \
	bench-operator bench-overhead bench-pipeline bench-ps bench-recovery clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install everything into .venv (about 6 GB, most of it torch)

.bootstrap/venv/bin/uv: requirements/bootstrap.txt
	@$(PYTHON) -m venv .bootstrap/venv
	@.bootstrap/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements/bootstrap.txt

$(STAMP): requirements/dev.txt pyproject.toml | .bootstrap/venv/bin/uv
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@echo "Installing packages into .venv ..."
	@$(UV) pip sync --quiet --require-hashes requirements/dev.txt --python $(BIN)/python
	@$(UV) pip install --quiet --no-build-isolation --no-deps --editable . --python $(BIN)/python
	@touch $@

test: lint type contracts generated unit simulation runtime ## Run every check and test

lint: $(STAMP) ## Check style with ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(STAMP) ## Check types with mypy (strict)
	@$(BIN)/mypy

contracts: $(STAMP) ## Check which part may import which
	@$(BIN)/lint-imports --no-cache

generated: $(STAMP) ## Check that generated files are fresh
	@$(BIN)/python -m reknit_operator.api.crd --check crds helm/reknit/files
	@$(BIN)/python -m reknit_operator.api.reference --check docs/manifest.md

unit: $(STAMP) ## Run the unit and property tests
	@$(ENV) $(BIN)/pytest $(PARALLEL) tests/unit

simulation: $(STAMP) ## Run the state machines against faults in virtual time
	@$(ENV) $(BIN)/pytest $(PARALLEL) tests/simulation

runtime: $(STAMP) ## Run real processes: numerics, checkpoints, faults
	@$(ENV) $(BIN)/pytest $(PARALLEL) tests/runtime

test-long: $(STAMP) ## Run the full form of tests that `make test` runs in a short one (an hour)
	@$(ENV) $(BIN)/pytest $(PARALLEL) -m long

gen: $(STAMP) ## Write the generated files anew
	@$(BIN)/python -m reknit_operator.api.crd --write crds helm/reknit/files
	@$(BIN)/python -m reknit_operator.api.reference --write docs/manifest.md

pins: .bootstrap/venv/bin/uv ## Compile requirements/ anew from pyproject.toml
	@$(UV) $(PIN) --group bootstrap --output-file requirements/bootstrap.txt
	@$(UV) $(PIN) pyproject.toml --extra operator --extra runtime --group dev \
		--output-file requirements/dev.txt
	@$(UV) $(PIN) pyproject.toml --extra operator --constraint requirements/dev.txt \
		--output-file requirements/operator.txt
	@$(UV) $(PIN) pyproject.toml --extra runtime --extra examples --constraint requirements/dev.txt \
		--output-file requirements/runtime.txt

test-apiserver: $(STAMP) ## Run operator and chart against a real API server (builds it first: minutes)
	@$(ENV) $(BIN)/pytest tests/apiserver

e2e: $(STAMP) ## Run Reknit in a real cluster: KUBECONFIG's, else one of processes here (as root)
	@$(ENV) $(BIN)/pytest tests/e2e -rP --timeout 900

e2e-kind: $(STAMP) ## The same in a cluster in Docker (needs kind, helm, kubectl)
	@E2E_CLUSTER=kind $(ENV) $(BIN)/pytest tests/e2e -rP --timeout 900

cluster-up: $(STAMP) ## Start a cluster of two nodes as plain processes (as root; builds it first: minutes)
	@PYTHONPATH=tests/support $(BIN)/python -m kubecluster up

cluster-down: $(STAMP) ## Take that cluster down
	@PYTHONPATH=tests/support $(BIN)/python -m kubecluster down

images: ## Build the images of operator and runtime with Docker
	@docker build --file images/operator.Dockerfile --tag reknit/operator:$(TAG) .
	@docker build --file images/runtime.Dockerfile --tag reknit/runtime:$(TAG) .

kind-up: images ## Start a cluster in Docker, and install Reknit there (needs kind, helm, kubectl)
	@kind get clusters | grep -qx $(KIND_CLUSTER) || kind create cluster --config kind-config.yaml
	@kind load docker-image --name $(KIND_CLUSTER) reknit/operator:$(TAG) reknit/runtime:$(TAG)
	@helm upgrade --install reknit helm/reknit --kube-context kind-$(KIND_CLUSTER) \
		--namespace reknit-system --create-namespace --wait

kind-down: ## Remove the cluster in Docker
	@kind delete cluster --name $(KIND_CLUSTER)

demo: $(STAMP) ## Train the small GPT with 4 ranks, kill one, and see it finish
	@$(ENV) $(BIN)/reknit run examples/gpt_bytes/job.yaml --kill 2@60

bench-communication: $(STAMP) ## Measure bytes and losses of compression and DiLoCo
	@$(ENV) $(BIN)/python tests/bench/communication

bench-overhead: $(STAMP) ## Measure throughput against bare DDP and bare DeepSpeed
	@$(ENV) $(BIN)/python tests/bench/overhead

bench-operator: $(STAMP) ## Measure the operator against a real API server (builds it first: minutes)
	@$(ENV) $(BIN)/python tests/bench/operator

bench-pipeline: $(STAMP) ## Measure how long the ranks of a pipeline wait, against the formula
	@$(ENV) $(BIN)/python tests/bench/pipeline

bench-ps: $(STAMP) ## Measure parameter servers against torch RPC
	@$(ENV) $(BIN)/python tests/bench/ps

bench-recovery: $(STAMP) ## Measure recoveries from killed ranks against torchrun
	@$(ENV) $(BIN)/python tests/bench/recovery

clean: ## Remove environments, caches and run folders
	@rm -rf .venv .bootstrap .cache runs
