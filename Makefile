# Every target makes what it needs: a virtual environment in .venv, filled with the pinned set of constraints.txt.
# PYTHON picks the interpreter (3.11 or newer), VENV the folder of the environment, ARGS goes to pytest.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
CACHE := .cache
VIEW := $(CACHE)/types/hvlite
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread each: the suite's many small tensors run about four times faster than with the default.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test test-full parity check lint format view types clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.runtime  ## make demo.mp4 from a prompt with the model that ships here (no test packages are installed)
	$(BIN)/hvlite generate "a red circle moves to the right" --output demo.mp4 --force

test: $(VENV)/.test  ## run the tests (under 15 minutes on two cores, no GPU needed)
	$(PYTEST) -m "not full" $(ARGS)

test-full: $(VENV)/.test  ## run everything: also soak, demo evaluation and full-size work
	$(PYTEST) -m "full or not full" $(ARGS)

check: lint  ## before a commit: lint, types, layers and the quick tests (under 5 minutes)
	$(PYTEST) -m "not slow and not full" $(ARGS)

parity: $(VENV)/.test  ## compare with the official code's outputs and write docs/parity.md
	HVLITE_PARITY_TABLE=docs/parity.md $(PYTEST) tests/lite -k "parity or text" $(ARGS)

lint: $(VENV)/.dev types  ## ruff, then everything in `make types`
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev view  ## mypy strict and the layers of the imports
	$(BIN)/mypy
	PYTHONPATH=$(CACHE)/types $(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## let ruff sort the imports and lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy and import-linter need a folder named hvlite in which kernels is a regular package; the repository has neither.
view:
	@rm -rf $(VIEW)
	@mkdir -p $(VIEW)/kernels
	@for init in */__init__.py; do ln -s "../../../$${init%/*}" $(VIEW)/; done
	@for file in *.py py.typed; do ln -s "../../../$$file" $(VIEW)/; done
	@for file in kernels/*.py kernels/aot; do ln -s "../../../../$$file" $(VIEW)/kernels/; done
	@: > $(VIEW)/kernels/__init__.py

clean:  ## remove the environment, the caches and what was built
	rm -rf $(VENV) $(CACHE) build dist hvlite.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: a second call installs nothing unless the packages asked for have changed.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "hvlite needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.runtime $(VENV)/.test
