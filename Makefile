# Two commands do all the set-up: `make demo` and `make test`. A second run installs nothing and needs no network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .mrgc/tools/bin/uv
VENV := .venv
ENGINE := .venv-engine
BIN := $(VENV)/bin
# Where a stamp stands, what it stamps for is installed from exactly these files.
SETUP_STAMP := $(VENV)/.stamp
ENGINE_STAMP := $(ENGINE)/.stamp
FUZZ_STAMP := $(VENV)/.stamp-fuzz
# bash has a variable SECONDS of its own, so only one from the command line counts.
FUZZ_SECONDS := $(if $(filter command line,$(origin SECONDS)),$(SECONDS))
ENGINE_SOURCES := $(wildcard stacks/local/engine/*.py stacks/local/engine/*.txt stacks/local/engine/*.sh)

.PHONY: help setup engine demo up down test fuzz check format preview packs bench enclave-image clean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP_STAMP)  ## Make .venv with everything but the engine

engine: $(ENGINE_STAMP)  ## Make .venv-engine: vLLM for this machine's CPU (about 1.8 GB, once)

demo: $(SETUP_STAMP) $(ENGINE_STAMP)  ## Start three regions here, ask, kill one, count, take it all down
	@$(BIN)/mrgc local demo

up: $(SETUP_STAMP) $(ENGINE_STAMP)  ## Start the local stack and leave it running
	@$(BIN)/mrgc local up --detach

down: $(SETUP_STAMP)  ## Stop the local stack
	@$(BIN)/mrgc local down

test: $(SETUP_STAMP) $(ENGINE_STAMP)  ## Run every test, the real engine's among them
	@$(BIN)/pytest -q $(PYTEST_ARGS)

fuzz: $(FUZZ_STAMP)  ## Fuzz with atheris: TARGET=name (all), SECONDS=60 for each (Linux, x86-64)
	@$(BIN)/python -m tests.fuzz.run $(foreach name,$(TARGET),--target $(name)) --seconds $(or $(FUZZ_SECONDS),60)

check: $(SETUP_STAMP)  ## Lint, types, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/conformance

format: $(SETUP_STAMP)  ## Rewrite the code in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

preview: $(SETUP_STAMP)  ## Preview the dev stack (needs the pulumi engine; no AWS account, a stand-in provider)
	@$(BIN)/python -m tests.engine.preview $(or $(STACK),dev)

packs: $(SETUP_STAMP)  ## Write what the policy packs are told of STACK (dev) to .mrgc/packs/STACK/
	@mkdir -p .mrgc/packs/$(or $(STACK),dev)
	@$(BIN)/python -m stacks.packs --stack $(or $(STACK),dev) > .mrgc/packs/$(or $(STACK),dev)/properties.json
	@for pack in enclave network; do \
	  $(BIN)/mrgc policy config --pack $$pack .mrgc/packs/$(or $(STACK),dev)/properties.json > .mrgc/packs/$(or $(STACK),dev)/$$pack.json; \
	done
	@echo "pulumi up --stack $(or $(STACK),dev) --policy-pack policies/enclave --policy-pack-config .mrgc/packs/$(or $(STACK),dev)/enclave.json --policy-pack policies/network --policy-pack-config .mrgc/packs/$(or $(STACK),dev)/network.json"

bench: $(SETUP_STAMP)  ## Measure sealing, the whole path beside the engine alone, KMS calls and memory
	@$(BIN)/python benchmarks/whole_path.py

enclave-image: $(SETUP_STAMP)  ## Build the enclave image and measurements.json (needs Docker and nitro-cli)
	@$(BIN)/python -m dataplane.enclave.build

clean: $(SETUP_STAMP)  ## Stop the local stack, then remove what was installed and what it wrote
	@-$(BIN)/mrgc local down
	rm -rf $(VENV) $(ENGINE) .mrgc .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "MRGC needs Python 3.11, but $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11.")'
	@echo "Installing uv $(UV_VERSION)"
	@$(PYTHON) -m venv .mrgc/tools
	@.mrgc/tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(SETUP_STAMP): pyproject.toml uv.lock | $(UV)
	@echo "Installing the locked packages into $(VENV)"
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --locked --quiet --python $(PYTHON)
	@touch $@

$(FUZZ_STAMP): $(SETUP_STAMP)
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --locked --quiet --inexact --group fuzz --python $(PYTHON)
	@touch $@

$(ENGINE_STAMP): $(ENGINE_SOURCES) | $(SETUP_STAMP)
	@$(BIN)/python -m stacks.local.engine --venv $(ENGINE)
	@touch $@
