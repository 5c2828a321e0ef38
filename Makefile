# Everything runs in .venv; nothing is needed before but Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow test-install test-cluster check bench bench-growth bench-gpu bench-sweeps format clean

# Install the tested set of versions, then pdx itself, editable.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"pdx needs Python 3.11 or newer, and {sys.executable} is {v.major}.{v.minor}; run: make $(MAKECMDGOALS) PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## train a teacher, distil students, write the report
	$(BIN)/pdx train -m sweep=demo

test: $(STAMP)  ## the test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m 'not slow and not install and not cluster'

test-slow: $(STAMP)  ## longer checks: every sweep with its steps cut, more kills, planted bugs
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/mutations.py

test-install: $(STAMP)  ## wheel, editable install, Hydra's pre-release
	$(BIN)/python -m pytest -m install

test-cluster: $(STAMP)  ## real Slurm, Ray and PostgreSQL on this host; skips what is not installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,slurm,ray,postgres,dashboard]'
	$(BIN)/python -m pytest -m cluster tests/cluster

check: $(STAMP)  ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)  ## store, capture, loss and step against their peers, on the CPU
	set -e; for name in store capture loss step; do $(BIN)/python benchmarks/$$name.py; done

bench-growth: $(STAMP)  ## stores of 1e5 to 1e8 tokens, many readers: 20 minutes and 5 GiB of disk
	$(BIN)/python benchmarks/growth.py

bench-gpu: $(STAMP)  ## what a GPU changes of it, and many students on one
	set -e; for name in capture loss step students; do $(BIN)/python benchmarks/$$name.py --device cuda; done

bench-sweeps: $(STAMP)  ## sweeps, fits of laws, many students in a process: half an hour
	set -e; for name in students fit scale sweep; do $(BIN)/python benchmarks/$$name.py; done

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## everything that was made, outputs included
	rm -rf $(VENV) outputs build dist *.egg-info
