# The front door. `make demo` and `make test` need Python 3.11, make and a C compiler, nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test test-faults lint types borders docs check clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/user.stamp: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(VENV)/user.stamp $@

setup: $(VENV)/dev.stamp   ## the environment .venv with what tests, lint and benchmarks need

demo: $(VENV)/user.stamp   ## pretrain on generated scenes, in some minutes on two CPU cores
	$(BIN)/python -m mae_vlm fit

test: $(VENV)/dev.stamp    ## the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-faults: $(VENV)/dev.stamp  ## real kills, signals and damaged files, and the slow tests: some minutes more
	$(BIN)/python -m pytest -n 2 --dist load -m "faults or slow"

lint: $(VENV)/dev.stamp    ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp   ## mypy, strict
	$(BIN)/mypy

borders: $(VENV)/dev.stamp ## the import contracts
	$(BIN)/lint-imports

docs: $(VENV)/dev.stamp      ## the documentation, into site/; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint types borders test test-faults  ## everything CI runs

clean:           ## remove the environment and caches, not your runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
