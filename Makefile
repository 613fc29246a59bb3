# make run: set everything up and train.    make help: all targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With coverage: make test PYTEST="coverage run -m pytest", then make coverage.
PYTEST := pytest
RUNS := $(VENV)/.runs
READY := $(VENV)/.ready
# Importing TensorFlow takes three times as long if Python may not keep its bytecode, as in many container images.
unexport PYTHONDONTWRITEBYTECODE
# uv takes a fifth of pip's time. It ignores pip's settings, such as a mirror: pip is asked if uv fails.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint pins.txt
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint pins.txt
DEVELOPMENT := --editable '.[export,joblib,submitit,ray]' --group dev

.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(RUNS): pyproject.toml pins.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  "mnist-exp needs Python 3.11 to 3.13; this is %d.%d. Name another with: make setup PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) uv || true
	$(UV) --editable . || $(PIP) --no-compile --editable .
	@touch $@

$(READY): $(RUNS)
	$(UV) $(DEVELOPMENT) || $(PIP) $(DEVELOPMENT)
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true
	@touch $@

setup: $(READY) ## make the environment .venv with the pinned versions, extras, and tools for development
	@echo 'Ready. Activate the environment with: source $(VENV)/bin/activate'

run: $(RUNS) ## install what a run needs, then train: MNIST if it can be had, else the built-in digits
	$(BIN)/mnist-exp

ui: $(RUNS) ## browse the runs in MLflow
	$(BIN)/mnist-exp ui

test: $(READY) ## set up, then test everything essential (minutes)
	$(BIN)/python -m $(PYTEST) -m "not slow" --numprocesses 2 --dist worksteal

test-slow: $(READY) ## real data, fresh environments, real servers, a browser, README's commands (an hour)
	$(BIN)/python -m $(PYTEST) -m "(slow or mnist) and not soak" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-gpu: $(READY) ## the tests that need a GPU; skipped without one
	$(BIN)/python -m $(PYTEST) -m gpu -rs

soak: $(READY) ## tests that take too long for the other targets, and all cases of those that they sample (hours)
	$(BIN)/python -m $(PYTEST) -m sampled --numprocesses 2 --dist worksteal

coverage: $(READY) ## the lines that earlier test runs covered; fails below the gate
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

reproduce: $(READY) ## repeat the rows of README's table of results, and compare (an hour)
	$(BIN)/python tests/benchmarks/reproduce.py $(ROW)

bench: $(READY) ## compare the speed with scripts in Keras and PyTorch (40 minutes)
	$(BIN)/python tests/benchmarks/speed.py

check: $(READY) ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

pins: $(READY) ## write the newest compatible version of each dependency to pins.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --no-header --no-annotate --extra export --extra joblib \
	  --extra submitit --extra ray --group dev --output-file pins.txt pyproject.toml
	$(BIN)/python docs/site/licenses.py

schema: $(RUNS) ## write the schemas in build/schema, with which editors check conf/
	@$(BIN)/mnist-exp schema folder=build/schema

format: $(READY) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

site: $(READY) ## build the documentation site in build/site/html
	$(BIN)/python docs/site/build.py

clean: ## remove the environment and caches; outputs are kept
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .coverage*

.PHONY: help setup run ui test test-slow test-gpu soak coverage reproduce bench check pins schema format site clean
