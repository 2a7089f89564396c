# Each target sets itself up: Python 3.11 with pip, and a package index, are all that it needs.
#   make caption   captions the demo clip with the embedded default
#   make test      lint, types, layers, and all tests
#   make browser   Chromium, for the tests of pages, which are skipped without one (Debian and its kin)

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# torch is pinned wherever pip runs: an unpinned one brings several GB that a CPU has no use for.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml) constraints.txt
SOURCES := lavcap_core $(wildcard plugins/lavcap-*/lavcap_*)
ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
CLIP ?= plugins/lavcap-starter/lavcap_starter/demo/dog-and-cat.mp4

.PHONY: caption test lint format wheels docs browser clean

caption: $(VENV)/.caption
	$(BIN)/lavcap caption $(CLIP)

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheels: $(VENV)/.dev
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w wheels . $(wildcard plugins/lavcap-*)
	@ls wheels

# The tables of the reference, out of the registry, the configuration models and the pages; a test holds them to it.
docs: $(VENV)/.dev
	$(BIN)/python docs/reference/make.py

browser:
	@command -v chromium || { $(ROOT) apt-get update -qq && $(ROOT) apt-get install -y --no-install-recommends chromium; }

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.caption: $(PROJECTS) | $(VENV)/bin/python
	$(PIP) -e '.[torch]' -e plugins/lavcap-ot -e plugins/lavcap-llama -e plugins/lavcap-starter
	touch $@

$(VENV)/.dev: $(PROJECTS) requirements-dev.txt | $(VENV)/bin/python
	$(PIP) -r requirements-dev.txt
	touch $@ $(VENV)/.caption

clean:
	rm -rf $(VENV) wheels
