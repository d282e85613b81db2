# Each target does all of its own set-up; a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-faults test-lowest test-gpu lint bench
demo: .venv/installed
	$(BIN)/python demo.py

test: .venv/installed
	$(BIN)/python -m pytest -q -m "not slow"

test-all: .venv/installed
	$(BIN)/python -m pytest -q -m "not faults"

# Four minutes on two cores: kill -9, full disks and the like, and faults injected into exports.
test-faults: .venv/installed
	$(BIN)/python -m pytest -q -m faults tests/faults tests/export/verification/test_injected_faults.py

# The lowest versions that setup.cfg allows: the library's tests, a short training, its exports.
LOWEST := .venv-lowest/bin
test-lowest: .venv-lowest/installed
	$(LOWEST)/python -m pytest -q -m "not slow" tests/keras_nam
	rm -rf .venv-lowest/run
	$(LOWEST)/python training/train.py --arch r18w16_nam --recipe fast --dataset synthetic --epochs 6 --quiet --run-dir .venv-lowest/run
	$(LOWEST)/python export/to_onnx.py --run .venv-lowest/run --provider cpu
	$(LOWEST)/python export/to_litert.py --run .venv-lowest/run

# At most ten minutes on an NVIDIA GPU (not measured yet); without one every test is skipped.
GOLDEN := tests/keras_nam/layers/test_nam_golden.py tests/training/whole_runs/test_trajectories.py
GOLDEN += tests/keras_nam/weights/test_weights.py::test_golden_logits_and_keys
test-gpu: .venv-gpu/installed
	.venv-gpu/bin/python -m pytest -q -rs -s --gpu tests/gpu $(GOLDEN)

lint: .venv/installed
	$(BIN)/ruff check .

# Ten minutes on two cores, which nothing else should use then.
bench: .venv/installed
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/input_pipeline.py

# The interpreter, which on Debian needs the package python3-venv to make an environment.
define new_environment
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
endef

.venv/installed: setup.cfg pyproject.toml
	$(new_environment)
	$(@D)/bin/python -m pip install --quiet --editable '.[train,export,dev]'
	touch $@

.venv-gpu/installed: setup.cfg pyproject.toml
	$(new_environment)
	$(@D)/bin/python -m pip install --quiet --editable '.[train,gpu,dev]'
	touch $@

# uv resolves to the lowest versions; those of the packages that take long to compile have wheels.
COMPILED := numpy scipy onnx matplotlib pillow
.venv-lowest/installed: setup.cfg pyproject.toml
	$(new_environment)
	$(@D)/bin/python -m pip install --quiet uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --resolution lowest-direct \
		$(addprefix --only-binary ,$(COMPILED)) --editable '.[train,export,convert]' 'pytest>=9'
	touch $@
