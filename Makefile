# Two commands for a fresh machine: `make demo` and `make test`. Each sets up .venv once (a stamp file remembers it).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test dev lint results clean

demo: $(VENV)/.base ## invert examples/vectors.parquet with the shipped model
	$(BIN)/unembed invert examples/vectors.parquet --compare text

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest -q

dev: $(VENV)/.dev ## set up .venv with everything that development needs

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

results: $(VENV)/.dev ## fill the README's results table from docs/results/*.json
	$(BIN)/python scripts/fill_readme.py

clean: ## remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("unembed needs Python 3.11 or later: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e ".[dev]"
	touch $@ $(VENV)/.base
