# make test   everything a change must pass, also on a fresh machine: environment, `make check`, pytest
# make check  the gate alone, without servers
# make torture  200 kills at random moments of whole migrations, in about a quarter of an hour (KILLS=, SEED= to replay)
# make torture-cutover  100 kills from the cutover to finalize, in about ten minutes
# make bench  speed beside peers and limits, for a quiet machine (docs/explanation/performance.md)
# make demo   the whole story on embedded PostgreSQL, in about a minute
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal
BENCH_ARGS ?=
KILLS ?= 200
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs bench torture torture-cutover clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# The stamps make a second run quick: nothing is installed again unless what is asked for has changed.
$(VENV)/.stamp-python: pyproject.toml hatch_build.py $(wildcard fixia_shardmig/*/_*.pyx)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,dev]'
	touch $@

$(VENV)/.stamp-system: scripts/system-packages
	PYTHON=$(PYTHON) scripts/system-packages
	mkdir -p $(VENV)
	touch $@

check: $(VENV)/.stamp-python
	scripts/check

test: $(VENV)/.stamp-system check
	$(BIN)/python -m pytest --ignore=tests/house $(PYTEST_ARGS)

demo: $(VENV)/.stamp-python
	$(BIN)/shardmig demo

format: $(VENV)/.stamp-python
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.stamp-python
	$(BIN)/python docs/generate.py

bench: $(VENV)/.stamp-system
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

torture: $(VENV)/.stamp-system
	$(BIN)/python -m tests.faults.torture --kills $(KILLS) --seed $(SEED)

torture-cutover: KILLS = 100
torture-cutover: $(VENV)/.stamp-system
	$(BIN)/python -m tests.faults.torture --cutover --kills $(KILLS) --seed $(SEED)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f $(VENV)/.stamp-python $(VENV)/.stamp-system
	find fixia_shardmig tests docs -name __pycache__ -prune -exec rm -rf {} +
