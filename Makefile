# Everything needs only Python 3.10 to 3.13 and make; set-up goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

VERSION := $(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null)
# Newer Pythons have no numpy as old as meddlr's pins want it: there it is installed without them.
PINNED := $(filter 3.10 3.11,$(VERSION))
CONSTRAINTS := $(if $(PINNED),constraints.txt,constraints-newest.txt)
# Its name holds the version, so that another Python sets up anew.
READY := $(VENV)/.ready-$(VERSION)

.PHONY: venv demo test check pytest short stress docs clean

venv: $(READY)

demo: $(READY)
	$(BIN)/python -m projects.cine.demo

# Both at the same time: mypy keeps one core busy for a minute.
test: $(READY)
	$(MAKE) --no-print-directory --jobs 2 check pytest

# Three workers on two cores: tests of several processes wait for one another.
pytest: $(READY)
	$(BIN)/python -m pytest -m "not stress" --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The whole way once, in minutes.
short: $(READY)
	$(BIN)/python -m pytest -m short --numprocesses 3 --dist loadfile --no-loadscope-reorder

stress: $(READY)
	$(BIN)/python -m pytest -m stress

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# The site, build/docs/index.html. Runs the notebooks; a warning, such as of a link to a page or heading that is not there, is an error.
docs: $(READY)-docs
	$(BIN)/python -m sphinx -W --keep-going --fresh-env -b html docs build/docs

$(READY)-docs: $(READY)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) results/demo datasets/phantom build/docs

# Installs again what no longer fits, and all of it for another Python.
$(READY): pyproject.toml setup.py $(CONSTRAINTS)
	@case "$(VERSION)" in 3.10|3.11|3.12|3.13) ;; *) \
	  echo "error: Python 3.10 to 3.13 needed, found $(PYTHON) ($(or $(VERSION),not there));" \
	    "give one: make PYTHON=python3.12" >&2; exit 2;; esac
	@[ -e $@ ] || rm -rf $(VENV)
	@echo "setting up $(VENV): some minutes, and several gigabytes where torch comes with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[dev]"
	$(if $(PINNED),,$(BIN)/pip install --quiet --no-deps -c $(CONSTRAINTS) meddlr)
	touch $@
	@echo "$(VENV) is ready; for the command meddlr-greedy: source $(VENV)/bin/activate"
