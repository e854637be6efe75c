# Two commands for a fresh machine: `make demo` and `make test`. Each sets up .venv once (a stamp file remembers it).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Every package is checked against its sha256 where the locks were made for the machine: Python 3.11 on Linux, x86_64.
LOCKED := $(shell $(PYTHON) -c 'import platform as p, sys; print(*(["yes"] if (*sys.version_info[:2], p.system(), p.machine()) == (3, 11, "Linux", "x86_64") else []))')
ifeq ($(LOCKED),yes)
install = $(PIP) --require-hashes -r $(1).lock && $(PIP) --no-deps --no-build-isolation -e .
else
install = $(PIP) -c constraints.txt -e "$(2)"
endif

comma := ,

.PHONY: demo test slow docs-run dev lint format hooks docs package matrix smoke browser results clean

demo: $(VENV)/.base ## invert examples/vectors.parquet with the shipped model
	$(BIN)/unembed invert examples/vectors.parquet --compare text

test: $(VENV)/.dev ## run the tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

slow: $(VENV)/.dev ## run the tests that `make test` leaves out: memory, rehearsals of long runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m slow

docs-run: $(VENV)/.dev ## run every command and block of README and docs/
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m docs

dev: $(VENV)/.dev ## set up .venv with everything that development needs

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff format everything
	$(BIN)/ruff format .

hooks: $(VENV)/.dev ## what pre-commit runs, on all files
	$(BIN)/pre-commit run --all-files

docs: $(VENV)/.dev ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: $(VENV)/.dev ## build wheel and sdist, install and use each outside the source tree
	scripts/package.sh $(BIN)/python

matrix: ## the whole suite on each Python from 3.11 to 3.13 that is here (installs torch for each)
	scripts/matrix.sh

smoke: ## what needs no torch, on the other Pythons that are here
	scripts/matrix.sh --smoke 3.12 3.13

browser: $(VENV)/.dev ## the page of `unembed serve` in Chromium, which is installed where root has apt-get
	command -v chromium >/dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } || true
	$(BIN)/python -m pytest -q -m browser tests/browser

results: $(VENV)/.dev ## fill the README's results table from docs/results/*.json
	$(BIN)/python -m reports.fill_readme

clean: ## remove the environment and the caches
	rm -rf $(VENV) .matrix site .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("unembed needs Python 3.11 or later: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt requirements.lock | $(BIN)/python
	$(call install,requirements,.)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt requirements-dev.lock | $(BIN)/python
	$(call install,requirements-dev,.[dev$(comma)docs])
	touch $@ $(VENV)/.base
