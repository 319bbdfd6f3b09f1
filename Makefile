# Every path is relative, so that a checkout under a path with spaces works.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first interpreter that is new enough; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Other versions of TRL, for the slow tests: tests/environments/NAME.txt says why.
OTHER_VENVS := .venv-ppo .venv-trl029

VENV := .venv
BIN := $(VENV)/bin
# `python -m pip` and not `pip`: the first line of a script can't hold a path with spaces.
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Everything at the pinned versions, the build backend too (hence no isolated build, which would fetch its own).
INSTALL := $(PIP) install -qq -c constraints.txt
INSTALL_PROJECT := $(INSTALL) --no-build-isolation -e

# Each package by the hashes of .ci/lock, as wheels alone: nothing else is installed, and no code of a package runs.
INSTALL_LOCKED := $(PIP) install -qq --no-deps --require-hashes --only-binary :all:

# CI runs the slow matrix as well.
PYTEST_SELECT := $(if $(filter true 1,$(CI)),,-m "not slow")

.PHONY: help venv $(OTHER_VENVS) servers demo test lint types generate check bench lock audit clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

venv: $(VENV)/.dev ## Make .venv with everything that the demo and the tests need

servers: ## Install Prometheus and Alertmanager where apt-get can (else say how)
	@sh deploy/install-servers.sh

demo: $(VENV)/.trl servers ## Train, break, and watch it being caught; ARGS="--fault nan-reward --keep"
	@$(BIN)/rlhf-otel demo $(ARGS)

test: $(VENV)/.dev $(if $(filter true 1,$(CI)),$(OTHER_VENVS)) servers lint types check ## Lint, types, generated files and tests (CI=true adds the slow ones)
	@echo "test: pytest"
	@$(BIN)/python -m pytest -q $(PYTEST_SELECT) $(ARGS)

lint: $(VENV)/.dev ## ruff
	@echo "lint: ruff"
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

types: $(VENV)/.dev ## mypy --strict (the first run reads torch and takes a minute)
	@echo "types: mypy"
	@$(BIN)/python -m mypy --no-error-summary

generate: $(VENV)/.dev ## Write alerts/ and docs tables anew from the catalogue
	@$(BIN)/rlhf-otel generate

check: $(VENV)/.dev ## Fail when a generated file is stale
	@echo "check: generated files"
	@$(BIN)/rlhf-otel generate --check

bench: $(VENV)/.bench ## Measure what telemetry costs, beside its peers; ARGS="overhead --quick --json FILE"
	@$(BIN)/python benchmarks/run.py $(ARGS)

lock: .venv-tools/.ready ## Write .ci/lock anew from constraints.txt (after a change of versions)
	@.venv-tools/bin/python .ci/lock.py

audit: .venv-tools/.ready ## Look the locked versions up in the database of known weaknesses, where that can be reached
	@.venv-tools/bin/python .ci/audit.py

.venv-tools/.ready: .ci/tools.txt
	@test -x .venv-tools/bin/python || "$(PYTHON)" -m venv .venv-tools
	@.venv-tools/bin/python -m pip --disable-pip-version-check install -qq -r $<
	@touch $@

clean: ## Remove .venv, caches and build results
	rm -rf $(VENV) $(OTHER_VENVS) .venv-tools build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f rlhf_otel/checkpoints/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is a file in .venv that is newer than what the installation was made from.

$(VENV)/.trl: pyproject.toml constraints.txt .ci/lock/trl.txt deploy/build_kernel.py rlhf_otel/checkpoints/one_pass.c
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (make PYTHON=/path/to/python)" >&2; exit 1; }
	@echo "venv: torch, transformers, trl and rlhf_otel into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(INSTALL_LOCKED) -r .ci/lock/trl.txt
	@# torch is not locked: its build, and what that needs, differ by machine (CPU, CUDA), and so do the hashes. It comes by
	@# itself: with the exact version there, nothing later pulls another build of it.
	@$(INSTALL) torch
	@$(INSTALL_PROJECT) '.[trl]'
	@touch $@

$(VENV)/.dev: $(VENV)/.trl .ci/lock/dev.txt
	@echo "venv: development tools"
	@$(INSTALL_LOCKED) -r .ci/lock/dev.txt
	@$(INSTALL_PROJECT) '.[trl,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev .ci/lock/bench.txt
	@echo "venv: the peers of the benchmark"
	@$(INSTALL_LOCKED) -r .ci/lock/bench.txt
	@$(INSTALL_PROJECT) '.[trl,dev,bench]'
	@touch $@

$(OTHER_VENVS): .venv-%: .venv-%/.ready

.venv-%/.ready: tests/environments/%.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (make PYTHON=/path/to/python)" >&2; exit 1; }
	@echo "venv: $$(head -n 1 $<)"
	@test -x .venv-$*/bin/python || "$(PYTHON)" -m venv .venv-$*
	@.venv-$*/bin/python -m pip --disable-pip-version-check install -qq -c $< torch
	@.venv-$*/bin/python -m pip --disable-pip-version-check install -qq -c $< hatchling editables peft pillow
	@.venv-$*/bin/python -m pip --disable-pip-version-check install -qq -c $< --no-build-isolation -e '.[trl]'
	@touch $@
