# Everything needs only Python 3.10 to 3.13 and make; set-up goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

VERSION := $(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null)
# Versions known to work: with meddlr's pins, and where Python is too new for them.
CONSTRAINTS := $(if $(filter 3.10 3.11,$(VERSION)),constraints.txt,constraints-newest.txt)
READY := $(VENV)/.ready-$(VERSION)

.PHONY: demo test check pytest short stress clean

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

clean:
	rm -rf $(VENV) results/demo datasets/phantom

# Installs again what no longer fits, and all of it for another Python. From 3.12 on meddlr comes without its pins.
$(READY): pyproject.toml setup.py $(CONSTRAINTS)
	@case "$(VERSION)" in 3.10|3.11|3.12|3.13) ;; *) \
	  echo "error: Python 3.10 to 3.13 needed, found $(PYTHON) ($(or $(VERSION),not there)); give one: make PYTHON=python3.12" >&2; \
	  exit 2;; esac
	@[ -e $@ ] || rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c $(CONSTRAINTS) -e ".[dev]"
	case "$(VERSION)" in 3.10|3.11) ;; *) $(BIN)/pip install --quiet --no-deps -c $(CONSTRAINTS) meddlr ;; esac
	touch $@
