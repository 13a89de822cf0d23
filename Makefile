# `make demo` and `make test` each set up all that they need, on a machine with Python 3.11 and make.

PYTHON ?= python3
BIN := .venv/bin
MATHEMATICS := src/lore/solvers/*

.PHONY: demo test lint soak clean

demo: .venv/installed-demo
	$(BIN)/lore demo --force

test: lint
	$(BIN)/pytest -n auto --maxprocesses 8 --cov --cov-report=
	$(BIN)/coverage report
	$(BIN)/coverage report --include='$(MATHEMATICS)' --fail-under=100

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Other examples of the laws than those that every test run draws; more damaged files; then kills at random moments.
soak: .venv/installed-dev
	for round in $$(seq 20); do $(BIN)/pytest -n auto -m hypothesis --hypothesis-profile=default || exit 1; done
	LORE_MUTATIONS=10000 $(BIN)/pytest -n 0 tests/runs/test_verdicts.py
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python benchmarks/soak.py

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed-demo: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[embed,gguf,report]'
	$(BIN)/lore download smollm2
	touch $@

.venv/installed-dev: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/lore download smollm2
	touch $@

clean:
	rm -rf .venv runs
