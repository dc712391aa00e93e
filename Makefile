# The two commands of a newcomer are `make demo` and `make test`; both make the environment they need.
#   make demo       the main job: five searchers on one problem, and a page that compares them
#   make test       quick tests             make test-slow   the slow ones     make test-all   both
#   make benchmark  what is promised about speed
#   make check      lint, format, types     make clean       remove what make and the tools have written
# Variables: PYTHON (3.11 or newer), VENV, and PYTEST_ARGS for more arguments to pytest.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt
# one file's tests stay on one worker, which shares its servers and trained networks
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
SOURCES := pyproject.toml constraints.txt qsearch/__init__.py

.PHONY: demo test test-slow test-all benchmark check lint format types install dev clean
.DELETE_ON_ERROR:

demo: install
	$(BIN)/qsearch run examples/demo.yaml

test: dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: dev
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: dev
	$(PYTEST) $(PYTEST_ARGS)

# one after the other, and alone: they time
benchmark: dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks/test_targets.py --timeout 0 --benchmark-columns=median,iqr,rounds $(PYTEST_ARGS)

check: lint format types

lint: dev
	$(BIN)/python -m ruff check .

format: dev
	$(BIN)/python -m ruff format --check .

types: dev
	$(BIN)/python -m mypy

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

# pip is the last thing that venv writes: an environment without it was never finished
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("qsearch needs Python 3.11 or newer; choose one with PYTHON=python3.x" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: its pin must be met before anything else may ask for another build of it
$(VENV)/.installed: $(SOURCES) | $(BIN)/pip
	$(INSTALL) torch
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
