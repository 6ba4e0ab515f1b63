# Quiesce: everything a contributor or a curious visitor runs. `make` alone lists it.
#
# The first target that needs it makes .venv from the lock files; a changed lock or another
# PYTHON makes it anew. Nothing is installed anywhere else.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules

MIN_PYTHON := 3.11
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin

# The base interpreter, so that a virtual environment that is active now is never rebuilt from itself.
PROBE := import sys; sys.exit("too old") if sys.version_info < (3, 11) else \
	print("%d.%d.%d" % sys.version_info[:3], getattr(sys, "_base_executable", sys.executable))
ifndef PYTHON
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11
else
CANDIDATES := $(PYTHON)
endif
FOUND := $(shell for python in $(CANDIDATES); do \
	"$$python" -c '$(PROBE)' 2>/dev/null && break; done)
VERSION := $(word 1,$(FOUND))
INTERPRETER := $(word 2,$(FOUND))

RUNTIME := $(VENV)/made-by-python-$(or $(VERSION),none)
DEV := $(VENV)/has-dev-tools
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: help
help: ## list these targets
	@echo "make TARGET [PYTHON=/path/to/python3]"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 13

.PHONY: demo
demo: $(RUNTIME) ## start the service, stop a batch safely, kill the service, go on
	@$(BIN)/python -m app demo

.PHONY: serve
serve: $(RUNTIME) ## run the service (QUIESCE_* variables set it up)
	@exec $(BIN)/python -m app serve

.PHONY: bench
bench: $(RUNTIME) ## measure it against its peers; takes minutes
	@$(BIN)/python -m benchmarks

.PHONY: test
test: lint types pytest ## formatting, lint, types and tests: all that has to pass

.PHONY: lint
lint: $(DEV) ## ruff: formatting and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: $(DEV) ## mypy, strict
	$(BIN)/mypy

.PHONY: pytest
pytest: $(DEV) ## the tests alone, some at a time; ARGS="-k stop -x" goes to pytest
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile $(ARGS)

.PHONY: chaos
chaos: $(DEV) ## kill everything at any moment, look for broken promises; takes minutes; SEED=1 SCALE=0.1
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SCALE),--scale $(SCALE))

.PHONY: coverage
coverage: $(DEV) ## the tests again, with line and branch coverage, child processes included
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: format
format: $(DEV) ## rewrite the code as `make lint` wants it
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

LOCK = build/lock/bin/uv --no-config pip compile pyproject.toml --quiet --universal \
	--python-version $(MIN_PYTHON) --generate-hashes --no-header --no-emit-index-url \
	--no-emit-find-links $(LOCK_ARGS)

.PHONY: lock
lock: build/lock/uv-$(UV_VERSION) ## rewrite both lock files from pyproject.toml, keeping what still fits
	$(LOCK) --output-file requirements.lock
	$(LOCK) --group dev --constraint requirements.lock --output-file requirements-dev.lock

.PHONY: upgrade
upgrade: ## rewrite both lock files with the newest releases
	@$(MAKE) --no-print-directory lock LOCK_ARGS=--upgrade

.PHONY: clean
clean: ## remove what make and the tools made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*

# --clear: a package that left the lock file leaves the environment too.
$(RUNTIME): requirements.lock
	@$(MAKE) --no-print-directory venv-is-possible
	@echo "Making $(VENV) with Python $(VERSION) ..."
	@"$(INTERPRETER)" -m venv --clear $(VENV)
	@$(PIP_INSTALL) --requirement requirements.lock
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	@echo "Adding the development tools ..."
	@$(PIP_INSTALL) --requirement requirements-dev.lock
	@touch $@

build/lock/uv-$(UV_VERSION):
	@$(MAKE) --no-print-directory venv-is-possible
	@"$(INTERPRETER)" -m venv --clear build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

.PHONY: venv-is-possible
venv-is-possible:
	@if [ -z "$(INTERPRETER)" ]; then \
		echo "make: no Python $(MIN_PYTHON) or newer among: $(CANDIDATES)." >&2; \
		echo "make: install one, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi
	@if [ "$$(uname -s)" != Linux ]; then \
		echo "make: Quiesce needs Linux; on other systems use: docker compose up" >&2; exit 1; fi
	@if ! "$(INTERPRETER)" -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "make: $(INTERPRETER) has no venv or ensurepip module." >&2; \
		echo "make: on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; fi
