# make run: the site on this machine. make test: every test. Both need Python 3.11 or newer, and nothing that runs already.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := .venv/bin
# Processes of the test run, each with a database and a Valkey of its own; unset: one more than there are processors.
JOBS ?=

.PHONY: help install run test lint fix bench prove prove-vault prove-routing

help:
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' $(MAKEFILE_LIST)

.venv/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; PYTHON=/path/to/python make …"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; PYTHON=/path/to/python make …"; exit 1; }
	@"$(PYTHON)" -m venv .venv
	@touch $@

.venv/.installed: .venv/.made requirements.txt
	@echo "Installing requirements; the first time takes a minute."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	@echo "Installing what tests and lint need."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

install: .venv/.installed-dev ## make .venv with everything that run, test and lint need

run: .venv/.installed ## start the site: PORT=8000 unless told otherwise, Ctrl-C stops it
	@exec $(BIN)/python manage.py up

test: .venv/.installed-dev ## every test, on SQLite and PostgreSQL, then in a browser
	@JOBS=$(JOBS) $(BIN)/python -m project.tests.run

lint: .venv/.installed-dev ## everything that can be checked without running it
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m project.tests.lint

fix: .venv/.installed-dev ## mend what can be mended by itself
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .
	$(BIN)/python -m project.tests.provider_facts

bench: .venv/.installed-dev ## what calls cost beside SDKs and peers, into docs/performance-beside.md; QUICK=1 in short
	@$(BIN)/python -m benchmarks.beside $(if $(QUICK),--quick)

prove: .venv/.installed-dev ## every claim, measured; PART=vault, routing, gateway, load, chaos or streams (ten minutes, only when named); QUICK=1 in short
	@$(BIN)/python -m benchmarks.prove $(PART) $(if $(QUICK),--quick) $(if $(MINUTES),--within $(MINUTES))

prove-vault: .venv/.installed-dev ## leaks, tampering, rotation, egress, isolation, guards, counted: TEST_DATABASE=postgres for PostgreSQL
	@$(BIN)/python -m benchmarks.prove vault $(if $(QUICK),--quick)

prove-routing: .venv/.installed-dev ## faults, kills and budgets, counted: TEST_DATABASE=postgres for PostgreSQL
	@$(BIN)/python -m benchmarks.prove routing $(if $(QUICK),--quick)
