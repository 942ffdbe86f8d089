# `make demo` and `make test` install what they need into .venv. Repeating them is fast.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help demo test install-cpu lint verify leaderboard docs docs-serve gpu clean

help:           ## show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/.demo  ## install, run MSKD on synthetic pedestrians, print the leaderboard
	$(BIN)/harness run -m method=direct_transfer,mskd dataset=synthetic
	$(BIN)/harness table --dataset synthetic

test: $(VENV)/.test  ## install with the test extra, run the tests
	@# compiled modules are kept, because the tests start many processes
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

install-cpu: | $(BIN)/python  ## install without CUDA's 4 GB of libraries; EXTRAS=test adds an extra
	$(BIN)/python -m pip install $(PIP_ARGS) --index-url https://download.pytorch.org/whl/cpu torch torchvision
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps -e .
	$(BIN)/python .ci/cpu_requirements.py $(EXTRAS) > $(VENV)/cpu-requirements.txt
	$(BIN)/python -m pip install $(PIP_ARGS) -r $(VENV)/cpu-requirements.txt
	@touch $(VENV)/.demo $(foreach extra,$(filter test docs,$(EXTRAS)),$(VENV)/.$(extra))

lint: $(VENV)/.test  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

verify: $(VENV)/.demo  ## check the arithmetic against the authors' own code
	$(BIN)/harness verify

leaderboard: $(VENV)/.demo  ## write results/README.md from the records in results/leaderboard/
	$(BIN)/harness table --store results/leaderboard --format markdown --output results/README.md

docs: $(VENV)/.docs  ## build the documentation site into site/; it needs no network, nor does reading it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/.docs  ## show the site at http://127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

gpu: $(VENV)/.test  ## on a GPU machine: GPU tests, timings, MSKD as published; ARGS="--minutes 9"
	$(BIN)/harness bench gpu $(ARGS)

clean:          ## remove the environment and caches (not data, not results)
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed, for example: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ $(VENV)/.demo
