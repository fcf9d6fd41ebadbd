# Everything needs only Python 3.11 (constraints.txt holds versions for it) and make; set-up goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check pytest stress clean

demo: $(READY)
	$(BIN)/python -m projects.cine.demo

# Both at the same time: mypy keeps one core busy for a minute.
test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 check pytest

# Three workers on two cores: tests of several processes wait for one another.
pytest: $(READY)
	$(BIN)/python -m pytest -m "not stress" --numprocesses 3 --dist loadfile --no-loadscope-reorder

stress: $(READY)
	$(BIN)/python -m pytest -m stress

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

clean:
	rm -rf $(VENV) results/demo datasets/phantom

# Installs again what no longer fits.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || \
	  { echo "error: Python 3.11 needed, found $$($(PYTHON) --version); give one: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)
