# `make demo`, `make up` and `make test` do all the set-up themselves. A second run installs nothing and needs no network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The Python that .venv is made from; without it uv takes one that the lock supports, and fetches one where none is.
PYTHON ?=
# vllm installs and uses the real engine, synthetic uses made-up words; without it, vLLM where it is installed.
ENGINE ?=
# Anything: `make demo` leaves what it started running.
KEEP ?=
UV_VERSION := 0.13.9
UV := .mrgc/tools/bin/uv
VENV := .venv
ENGINE_VENV := .venv-engine
BIN := $(VENV)/bin
# Where a stamp stands, what it stamps for is installed from exactly these files.
LOCAL_STAMP := $(VENV)/.stamp-local
SETUP_STAMP := $(VENV)/.stamp
ENGINE_STAMP := $(ENGINE_VENV)/.stamp
FUZZ_STAMP := $(VENV)/.stamp-fuzz
# bash has a variable SECONDS of its own, so only one from the command line counts.
FUZZ_SECONDS := $(if $(filter command line,$(origin SECONDS)),$(SECONDS))
ENGINE_SOURCES := $(wildcard stacks/local/engine/*.py stacks/local/engine/*.txt stacks/local/engine/*.sh)

ifneq ($(filter-out vllm synthetic,$(ENGINE)),)
$(error ENGINE is "$(ENGINE)", and it is vllm (installed first where it is not), synthetic, or not set)
endif
# A worker reads ENGINE too: what is chosen here is handed on as an option, not through the environment.
unexport ENGINE
WANTED_ENGINE := $(if $(filter vllm,$(ENGINE)),$(ENGINE_STAMP))
ENGINE_OPTION := $(if $(ENGINE),--engine $(ENGINE))
SYNC := UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --locked --quiet $(if $(PYTHON),--python $(PYTHON))

.PHONY: help setup engine demo up down test fuzz check format preview packs bench enclave-image clean

help:  ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP_STAMP)  ## Make .venv with everything but the engine

engine: $(ENGINE_STAMP)  ## Make .venv-engine: vLLM for this machine's CPU (about 1.8 GB, once)

demo: $(LOCAL_STAMP) $(WANTED_ENGINE)  ## Start three regions here, ask, kill one, count, take it down (ENGINE=vllm, KEEP=1)
	@$(BIN)/mrgc local demo $(ENGINE_OPTION) $(if $(KEEP),--keep)

up: $(LOCAL_STAMP) $(WANTED_ENGINE)  ## Start the local stack and leave it running (ENGINE=vllm for real vLLM)
	@$(BIN)/mrgc local up --detach $(ENGINE_OPTION)

down: $(LOCAL_STAMP)  ## Stop the local stack
	@$(BIN)/mrgc local down

# Without ENGINE the engine is installed where it can be; where it can't, its tests are skipped, and on CI that fails.
test: $(SETUP_STAMP) $(WANTED_ENGINE)  ## Run every test, the real engine's where vLLM can be installed
	@$(if $(ENGINE),,$(BIN)/python -m stacks.local.engine --venv $(ENGINE_VENV) --where-possible)
	@$(BIN)/pytest -q $(if $(filter synthetic,$(ENGINE)),-m "not engine") $(PYTEST_ARGS)

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
	rm -rf $(VENV) $(ENGINE_VENV) .mrgc .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(UV):
	@scripts/uv.sh .mrgc/tools $(UV_VERSION) $(PYTHON)

# What the local stack runs on, without the infrastructure's packages, which are more than half of all.
$(LOCAL_STAMP): pyproject.toml uv.lock | $(UV)
	@echo "Installing the local stack's locked packages into $(VENV)"
	@$(SYNC) --inexact --no-default-groups --group local
	@touch $@

$(SETUP_STAMP): pyproject.toml uv.lock | $(UV)
	@echo "Installing the locked packages into $(VENV)"
	@$(SYNC)
	@touch $(LOCAL_STAMP) $@

$(FUZZ_STAMP): $(SETUP_STAMP)
	@$(SYNC) --inexact --group fuzz
	@touch $@

$(ENGINE_STAMP): $(ENGINE_SOURCES) | $(LOCAL_STAMP)
	@$(BIN)/python -m stacks.local.engine --venv $(ENGINE_VENV)
	@touch $@
