# Every command does its own set-up: nothing is needed beforehand but Python 3.11, 3.12 or 3.13.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Where Python is told to keep no bytecode, each process compiles all that it imports: 11 CPU seconds instead of 3.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
STAMP := .venv/.in-step-with-the-lock
OURS := truecourse tasks flows feature_repo services cli benchmarks

.PHONY: help setup demo up test test-fast coverage lint format docs docs-serve diagrams screenshots bench bench-drift bench-truth bench-serve bench-replay bench-edits bench-scale soak lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(STAMP) ## the main job, once, from raw files to a served and explained prediction
	@$(BIN)/truecourse demo

up: $(STAMP) ## the whole platform, in the foreground
	@$(BIN)/truecourse up

test: $(STAMP) ## every test, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

coverage: $(STAMP) ## every test, with the share of our lines that they run; slower on Python 3.11
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	  $(BIN)/python -m pytest --cov --cov-report=term:skip-covered

test-fast: $(STAMP) ## the unit tests and the architecture, three files at a time, since many wait for connections
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/unit tests/test_architecture.py tests/test_language.py

lint: $(STAMP) ## ruff, mypy, and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## the documentation's site, into .site; a broken link or anchor fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-serve: $(STAMP) ## the documentation's site at http://127.0.0.1:8000/, built again after each edit
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --strict

diagrams: $(STAMP) ## draw the diagrams of the architecture anew
	$(BIN)/python -m docs.tools.diagrams

screenshots: $(STAMP) ## the pictures of the documentation, of the demo's pages in headless Chromium
	$(BIN)/python -m docs.tools.screenshots

bench: $(STAMP) ## every promised figure, against its reference
	$(BIN)/python -m benchmarks

bench-drift: $(STAMP) ## drift: false alarms and power on the flights, CPU and memory, beside Evidently
	$(BIN)/python -m benchmarks drift alarms

bench-truth: $(STAMP) ## what monitoring, comparisons and lineage say, in worlds whose truth is known
	$(BIN)/python -m benchmarks truth

bench-serve: $(STAMP) ## the endpoint beside other servers
	$(BIN)/python -m benchmarks serve

bench-replay: $(STAMP) ## a year played forward, beside a frozen champion, and with faults planted
	$(BIN)/python -m benchmarks replay

bench-edits: $(STAMP) ## edits of the flights, one after another, and what earlier versions still can
	$(BIN)/python -m benchmarks edits

bench-scale: $(STAMP) ## the lifecycle at 1, 3 and 10 times the flights: CPU time, peak memory, growth; or TIMES="1 30"
	$(BIN)/python -m benchmarks lifecycle $(addprefix --times ,$(TIMES))

soak: $(STAMP) ## `truecourse up` under faults for half an hour: what is answered, lost, stuck
	$(BIN)/python -m benchmarks soak --minutes $(or $(MINUTES),30)

lock: $(STAMP) ## resolve the dependencies anew, for all three Pythons
	. .ci/tools; "$$UV" pip compile pyproject.toml --group dev --universal --generate-hashes --python-version 3.11 \
	  --no-annotate --no-header --upgrade -o requirements.lock

setup: $(STAMP) ## install into .venv, if anything changed

$(STAMP): requirements.lock pyproject.toml
	@.ci/setup && touch $@

clean: ## remove what was installed; data stays
	rm -rf .venv .uv
