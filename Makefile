# `make` says what there is. Needs Python 3.10 or newer, make and git; everything else goes into .venv.

PYTHON ?= python3
JOBS   ?= auto
ARGS   ?=
REPO   ?=

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed

PYTEST := $(PY) -m pytest -n $(JOBS) --maxprocesses=8 --dist=worksteal

export REPO

.DEFAULT_GOAL := help
.PHONY: help demo test test-long torture check format clean distclean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=python3.12 (for the first run)  REPO=path (demo)  JOBS=4 ARGS='-k name' (tests)"

demo: $(STAMP) ## import a git history, search it now and then, rebuild, verify (REPO=path: another repository)
	@$(PY) -m examples.demo $${REPO:+"$$REPO"}

test: $(STAMP) ## all tests but the slow ones, in parallel
	$(PYTEST) $(ARGS)

test-long: $(STAMP) ## all tests, twenty times the generated examples
	ASOF_PROFILE=long $(PYTEST) -m "" --timeout=7200 $(ARGS)

torture: $(STAMP) ## processes killed, power lost, disks failing, files damaged, threads and processes racing, thousands of times each
	ASOF_PROFILE=long $(PYTEST) tests/crash tests/damage tests/races -rP --timeout=7200 $(ARGS)

check: $(STAMP) ## lint, format, types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP) ## put imports and layout right
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove what builds and runs leave behind
	rm -rf build dist *.egg-info .demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## ... and .venv
	rm -rf $(VENV)

# Runs when pyproject.toml is newer than the last good installation.
$(STAMP): pyproject.toml
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  command -v "$(PYTHON)" >/dev/null || \
	    { echo "error: no '$(PYTHON)' here. Install Python 3.10 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "error: asof needs Python 3.10 or newer, and '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1). Name a newer one: make PYTHON=python3.12" >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "error: '$(PYTHON)' comes without the venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	  echo "Making $(VENV) with $$("$(PYTHON)" --version 2>&1)"; \
	  "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "Installing into $(VENV) (once; again when pyproject.toml changes)"
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@
