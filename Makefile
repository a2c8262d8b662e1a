# Everything lands in .venv/ (delete it to start over); stamp files in it keep a second run from installing again.
# Python packages come from the lock files: exact versions with hashes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# What the targets pass on: make run ARGS="--set rtmp.listen=0.0.0.0:1936"
ARGS ?=
FUZZ_SECONDS ?= 60
BENCHMARKS ?= fanout ingest latency

RUNTIME := $(VENV)/.stamp-runtime
DEV := $(VENV)/.stamp-dev
FUZZ := $(VENV)/.stamp-fuzz
PACKAGES := $(VENV)/.stamp-packages

E2E_TESTS := $(wildcard tests/e2e/test_*.py)
TEST_PACKAGES := tests/e2e/packages.txt

# Containers often set it; each of the hundreds of nodes that the tests start would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup run cluster test lint unit e2e bench fuzz reference lock python-packages

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUNTIME) ## install what the server needs: Python and the locked packages, in .venv/

run: $(RUNTIME) ## set up and run one node with a moving test picture (live/demo)
	@exec $(BIN)/pyrtmp serve --demo $(ARGS)

cluster: $(RUNTIME) ## run the cluster of config/ on this machine: haproxy, two masters, two slaves, two edges, nginx, Redis
	$(call debian,haproxy nginx redis-server)
	@exec $(BIN)/python -m config.cluster $(ARGS)

test: lint unit e2e ## set up and run every check and every test

lint: $(DEV) ## ruff, mypy --strict, import arrows
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(DEV) $(PACKAGES) ## the tests of the modules; they wait half of the time
	$(BIN)/python -m pytest -n 3 --ignore=tests/e2e $(ARGS)

e2e: $(DEV) $(PACKAGES) ## the tests with real clients, one after the other
ifneq ($(E2E_TESTS),)
	$(BIN)/python -m pytest tests/e2e $(ARGS)
endif

bench: $(DEV) ## compare with nginx-rtmp; about half an hour (benchmarks/README.md has more)
	$(call debian,ffmpeg nginx libnginx-mod-rtmp)
	set -e; for each in $(BENCHMARKS); do $(BIN)/python -m benchmarks $$each $(ARGS); done

# New inputs go to .venv/fuzz; one that breaks a rule joins the corpus, which the tests replay.
fuzz: $(FUZZ) ## fuzz the parsers, FUZZ_SECONDS (60) each
	set -e; for target in tests/fuzz/fuzz_*.py; do \
	    name=$$(basename $$target .py); name=$${name#fuzz_}; corpus=tests/fuzz/corpus/$$name; mkdir -p $(VENV)/fuzz/$$name; \
	    $(BIN)/python $$target -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=$$corpus/ $(VENV)/fuzz/$$name $$corpus; \
	done

reference: $(RUNTIME) ## write REFERENCE.md, METRICS.md, COMMANDS.md, origin.toml and openapi.json in config/ again from the code
	$(BIN)/python -c 'from cluster.config import reference; print(reference(), end="")' > $(VENV)/reference.md
	mv $(VENV)/reference.md config/REFERENCE.md
	$(BIN)/python -c 'from cluster.config import example; print(example(), end="")' > $(VENV)/origin.toml
	mv $(VENV)/origin.toml config/origin.toml
	$(BIN)/python -c 'from cluster.metrics_reference import reference; print(reference(), end="")' > $(VENV)/metrics.md
	mv $(VENV)/metrics.md config/METRICS.md
	$(BIN)/python -c 'from cluster.openapi import reference; print(reference(), end="")' > $(VENV)/openapi.json
	mv $(VENV)/openapi.json config/openapi.json
	$(BIN)/python -c 'from cluster.cli_reference import reference; print(reference(), end="")' > $(VENV)/commands.md
	mv $(VENV)/commands.md config/COMMANDS.md

# The locks hold versions and hashes only: no index, so that any mirror serves.
LOCK = $(VENV)/lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --all-build-deps \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

lock: $(RUNTIME) ## lock the dependencies again after pyproject.toml changed (LOCK_ARGS=--upgrade: newest versions)
	test -x $(VENV)/lock/bin/pip || $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet pip-tools
	$(LOCK) $(LOCK_ARGS) --output-file requirements.lock pyproject.toml
	$(LOCK) $(LOCK_ARGS) --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	$(LOCK) $(LOCK_ARGS) --extra fuzz --constraint requirements.lock --output-file requirements-fuzz.lock pyproject.toml
	sed -i '1{/^# Written/!s/^/# Written by make lock.\n/}' requirements.lock requirements-dev.lock requirements-fuzz.lock

# $(call debian,PACKAGES): installs those of the Debian packages that are missing, as root or through sudo.
define debian
	@missing=; \
	for package in $(1); do \
	    dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q ' installed$$' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	echo "Debian packages to install:$$missing"; \
	if ! command -v apt-get >/dev/null; then \
	    echo "make: there is no apt-get here; please install what these Debian packages hold, then try again:$$missing" >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then root=; \
	elif command -v sudo >/dev/null; then root=sudo; \
	else \
	    echo "make: neither root nor sudo; please have root run: apt-get install$$missing" >&2; exit 1; \
	fi; \
	$$root apt-get update -q && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing || { \
	    echo "make: apt-get failed; please have root run: apt-get install$$missing" >&2; exit 1; \
	}
endef

# Debian splits venv and ensurepip off; where Python has them (any system), nothing is installed.
PYTHON_IS_FIT = $(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

python-packages:
	$(call debian,python3 python3-venv)

$(BIN)/pip:
	@$(PYTHON_IS_FIT) || $(MAKE) --no-print-directory python-packages
	@$(PYTHON_IS_FIT) || { echo "make: needs Python 3.11 or later with venv; try make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# --no-build-isolation: setuptools comes from the lock too.
$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/pip
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

$(FUZZ): requirements-fuzz.lock $(RUNTIME)
	$(PIP) install --quiet --require-hashes -r requirements-fuzz.lock
	@touch $@

$(PACKAGES): $(TEST_PACKAGES) | $(BIN)/pip
	$(call debian,$(shell sed 's/#.*//' $(TEST_PACKAGES)))
	@touch $@
