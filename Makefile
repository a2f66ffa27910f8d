# The two commands of the README are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Locks hold no conflicts, and one of two installs at once must not look for them in the other.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-warn-conflicts
# On all cores, what commands import and little else: with everything that comes, pip takes 20 s.
SPARED := tests?|pip|setuptools|distutils|sqlalchemy/(testing|orm)|mysql|mssql|oracle|lexers|pydantic/v1
SPARED := $(SPARED)|scipy/(cluster|datasets|fftpack|integrate|interpolate|io|ndimage|odr|signal|stats)
COMPILE := $(BIN)/python -m compileall -q -j 0 -x 'site-packages/(.*/)?($(SPARED))/' $(VENV)/lib \
  verifier policy ratls scheduler provider enclave_app simulation || true
VECTORS := ../shared/vectors

# Tests on genuine quotes run where the folder exists, and say aloud where it does not.
ifneq ($(wildcard $(VECTORS)/index.json),)
export RATLS_VECTORS ?= $(abspath $(VECTORS))
endif

.PHONY: demo test check quick format lint types errors computations messages proto bench differential fuzz mutants cases venv lock \
  image-lock image-list clean

demo: $(VENV)/.runs
	$(BIN)/ratls demo

# Workers that have done their share take tests from the others.
PYTEST := $(BIN)/pytest -q -n auto --dist worksteal

test: venv
	$(PYTEST)

check: lint types test

# What CONTRIBUTING says about it: which tests it leaves out.
quick: lint
	$(PYTEST) -m "not slow"

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: venv
	$(BIN)/mypy

venv: $(VENV)/.installed

# What `make demo` needs; the test tools come with `make test`.
$(VENV)/.runs: requirements/run.txt requirements/arrays.txt pyproject.toml simulation/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "ratls needs Python 3.11 to 3.13; say: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 3; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "no environment could be made; on Debian: apt-get install python3-venv"; exit 3; }
	$(PIP) --require-hashes -r requirements/arrays.txt & arrays=$$!; \
	$(PIP) --require-hashes -r requirements/run.txt; run=$$?; \
	wait $$arrays && exit $$run
	$(PIP) --no-deps --no-build-isolation -e . -e ./simulation & own=$$!; \
	$(COMPILE); wait $$own
	@touch $@

$(VENV)/.installed: requirements/dev.txt $(VENV)/.runs
	$(PIP) --require-hashes -r requirements/dev.txt
	@$(COMPILE)
	@touch $@

errors: venv
	$(BIN)/python -m tests.support.error_page

computations: venv
	$(BIN)/python -m tests.support.computation_page

# One example of every refusal, noted while the tests run.
messages: venv
	rm -rf build/messages && mkdir -p build/messages
	$(PYTEST) --messages=build/messages --deselect tests/test_messages.py
	$(BIN)/python -m tests.support.message_page build/messages

proto: venv
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. \
	  scheduler/task_service.proto

bench: venv
	@for script in benchmarks/*.py; do $(BIN)/python $$script --json || exit 1; done

# The verifier against another one, on 200,000 mutants; about ten minutes on two cores.
differential: venv
	$(BIN)/python -m tests.differential --mutants 200000 --seed 1 --workers 2

# Ten million executions in all; about a quarter of an hour on two cores.
fuzz: venv
	$(PIP) --require-hashes -r requirements/fuzz.txt
	$(BIN)/python -m tests.fuzz --target all --runs 10000000 --workers 2

# Every check of the verifier removed in turn; part of `make test` too.
mutants: venv
	$(BIN)/python -m tests.mutants

cases: venv
	$(BIN)/python -m tests.vectors.make_cases

# Needs `uv` on the PATH. The locks name no index: any mirror with the same bytes will do.
lock:
	for set in run arrays postgresql dev fuzz; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header requirements/$$set.in -o requirements/$$set.txt || exit 1; done

# What the enclave's image is made of, from what pip and apt-get bring now. Needs root and strace, as the next one.
image-lock: venv
	$(BIN)/python -m tests.support.image_lock build/image
	$(MAKE) image-list

# After a change of what the enclave imports.
image-list: venv
	$(BIN)/python -m tests.support.image_list build/image/wheels build/image/debs > build/image/files.txt
	mv build/image/files.txt manifests/gramine/files.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf *.egg-info simulation/*.egg-info
