# Everything runs in .venv; nothing is needed before but Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: bench demo test test-slow test-install check format clean

# Install the tested set of versions, then pdx itself, editable.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"pdx needs Python 3.11 or newer, and {sys.executable} is {v.major}.{v.minor}; run: make $(MAKECMDGOALS) PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## train a teacher, distil students, write the report
	$(BIN)/pdx train -m sweep=demo

test: $(STAMP)  ## the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not install'

test-slow: $(STAMP)  ## longer checks: more kills, planted bugs
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/mutations.py

test-install: $(STAMP)  ## wheel, editable install, Hydra's pre-release
	$(BIN)/python -m pytest -m install

bench: $(STAMP)  ## figures of benchmarks/, against peers, on one thread
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/capture.py

check: $(STAMP)  ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## everything that was made, outputs included
	rm -rf $(VENV) outputs build dist *.egg-info
