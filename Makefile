# One command each; `make` lists them. Each makes what it needs first, and a second call takes seconds.
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev engine image demo test check bench chaos bench-scale bench-idle runner-build runner-push registry-named runner-test wheel lock clean

RUNNER_IMAGE_NAME ?= cnap-runner
RUNNER_IMAGE_TAG ?= latest
RUNNER_IMAGE = $(RUNNER_IMAGE_NAME):$(RUNNER_IMAGE_TAG)
BIN = .venv/bin
CNAP = $(BIN)/cnap-runner

help: ## list these targets
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## virtual environment with what is needed to use cnap-runner
	scripts/setup

setup-dev:
	scripts/setup dev

engine: setup ## a Docker Engine: the one that answers, else one installed and started (Debian, Ubuntu, as root)
	scripts/engine

# Tests, demo and benchmarks use the image that agents get by default.
image: engine
	$(CNAP) image build

demo: image ## watch an agent work in its container; needs no API key
	$(CNAP) demo

test: setup-dev image ## all tests, on the real engine and the real OpenCode
	scripts/test $(PYTEST_ARGS)

check: setup-dev ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	if command -v shellcheck >/dev/null; then \
	    shellcheck scripts/* docker/runner/entrypoint docker/runner/healthcheck docker/runner/make-kit .ci/run; \
	else echo "shellcheck is not installed: shell scripts are not checked"; fi

bench: setup-dev image ## figures side by side with what you would run instead
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-scale: setup-dev ## how a manager's own work grows from 100 to 10,000 known agents
	$(BIN)/python -m benchmarks.growth $(BENCH_ARGS)

bench-idle: setup-dev ## an hour of idling: the manager's CPU (BENCH_ARGS="--minutes 5")
	$(BIN)/python -m benchmarks.idle $(BENCH_ARGS)

chaos: setup-dev image ## agents at work while all they stand on is killed, frozen, cut and filled; needs root
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

# RUNNER_BASE_IMAGE, RUNNER_PLATFORM: see docs/image.md.
runner-build: engine ## build RUNNER_IMAGE_NAME:RUNNER_IMAGE_TAG
	$(CNAP) image build --tag "$(RUNNER_IMAGE)" \
	    $${RUNNER_BASE_IMAGE:+--base "$$RUNNER_BASE_IMAGE"} $${RUNNER_PLATFORM:+--platform "$$RUNNER_PLATFORM"}

runner-push: registry-named runner-build ## push it to RUNNER_IMAGE_REGISTRY
	$(CNAP) image push --tag "$(RUNNER_IMAGE)" "$(RUNNER_IMAGE_REGISTRY)/$(RUNNER_IMAGE)"

registry-named:
	if [ -z "$(RUNNER_IMAGE_REGISTRY)" ]; then \
	    echo "runner-push: set RUNNER_IMAGE_REGISTRY, for example RUNNER_IMAGE_REGISTRY=registry.example.com/team" >&2; exit 2; fi

runner-test: runner-build ## print the version of OpenCode inside it
	$(CNAP) image version --tag "$(RUNNER_IMAGE)"

wheel: setup-dev ## dist/*.whl, which works outside of this checkout
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

lock: setup-dev ## write requirements/*.txt anew from pyproject.toml (LOCK_ARGS=--upgrade)
	scripts/lock $(LOCK_ARGS)

clean: ## remove the virtual environment, caches and built wheels; never data/
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find cnap_runner tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
