.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/quickstart.yaml
STAMP := $(VENV)/.installed

.PHONY: help setup fit test test-slow check lint format types parity bench

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv and install everything, once

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

fit: $(STAMP)  ## train a recipe (RECIPE=recipes/quickstart.yaml)
	$(BIN)/python -m dlreview.fit $(RECIPE)

test: $(STAMP)  ## run the tests, two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile

# 5 is pytest's exit status where no test is chosen.
test-slow: $(STAMP)  ## run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet -m slow || test $$? -eq 5

check: lint types test  ## lint, types and tests: what CI runs

lint: $(STAMP)  ## ruff's rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## mypy on the package
	$(BIN)/mypy

parity: $(STAMP)  ## rebuild the parity ledger against the installed libraries
	$(BIN)/python -m dlreview.parity

bench: $(STAMP)  ## time ours beside theirs
	$(BIN)/python benchmarks/speed.py
