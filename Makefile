# Each target does all of its own set-up; a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-faults lint bench
demo: .venv/installed
	$(BIN)/python demo.py

test: .venv/installed
	$(BIN)/python -m pytest -q -m "not slow"

test-all: .venv/installed
	$(BIN)/python -m pytest -q -m "not faults"

# Ten minutes on two cores: kill -9, full disks and the like, and faults injected into exports.
test-faults: .venv/installed
	$(BIN)/python -m pytest -q -m faults tests/faults tests/export/test_injected_faults.py

lint: .venv/installed
	$(BIN)/ruff check .

# Ten minutes on two cores, which nothing else should use then.
bench: .venv/installed
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/input_pipeline.py

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[train,export,dev]'
	touch $@
