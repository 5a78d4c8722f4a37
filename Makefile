PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Three at a time, for tests wait for a third of their time and these machines have two cores. A file's tests
# stay together, for they share stores and brokers; tests/conftest.py says which files begin.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: help install kernels demo test test-long test-plain test-bounds lint bench clean
help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,bench]'
	touch $@

install: $(VENV)/.installed  ## a virtual environment in .venv with everything in it

demo: install  ## a simulated GPU host, live, and what its models cost
	$(BIN)/wattribute up --simulate --store chdb://$(CURDIR)/.demo/store --bus local://$(CURDIR)/.demo/bus --fresh

kernels: install  ## compile them for the tests, each once; else each process that runs tests does
	$(BIN)/python -c 'import tests.conftest; from wattribute.commands.compiling import compile_kernels; compile_kernels()'

test: install  ## the checks of the code, while the kernels are compiled, then the tests
	$(MAKE) --no-print-directory --jobs=2 lint kernels
	$(PYTEST) -m "not long"

test-long: kernels  ## the tests that take minutes: kills, outages, every answer of the demo, large random fleets
	$(PYTEST) -m long

test-plain: install  ## the tests of the stream, with the kernels as plain Python
	NUMBA_DISABLE_JIT=1 $(PYTEST) tests/stream

test-bounds: export NUMBA_BOUNDSCHECK = 1
test-bounds: kernels  ## the tests of the stream, with every index of the kernels checked
	$(PYTEST) tests/stream

lint: install  ## style, types and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## the speed of each part, as one table
	$(BIN)/python -m benchmarks

clean:  ## remove what was made here
	rm -rf $(VENV) .demo build dist *.egg-info src/*.egg-info
