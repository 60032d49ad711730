# make quickstart: set up, run the default study, name its report.   make test: set up, lint, run the tests.
# Both may be repeated and cost nothing that is done already.
# make status: how far the study is that runs here, or the one that config/config.yaml names (make status study=<name>).
# make test-faults: more than 200 kills, full disks, damaged files; half an hour on 2 cores (KILLS=, SEED= as docs/reliability.md says).

PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: quickstart test test-slurm test-faults status install lint clean

quickstart: $(VENV)/installed
	snakemake --cores $(CORES) --config study=quickstart
	@echo "The report: $(abspath results/studies)/quickstart/report.html"

test: $(VENV)/installed-test lint
	python -m pytest -n $(CORES)

# On a SLURM cluster that it starts itself; skipped, with the reason, where it cannot (no root, no slurmctld, ...).
test-slurm: $(VENV)/installed-slurm
	python -m pytest -rs tests/slurm

# Hundreds of kills at random points, and what else can go wrong; docs/reliability.md has the figures.
KILLS ?= 4
SEED ?= 0
test-faults: $(VENV)/installed-test
	ALLROUND_KILLS=$(KILLS) ALLROUND_SEED=$(SEED) python -m pytest -n $(CORES) tests/faults

status: $(VENV)/installed
	@PYTHONPATH=src python -m allround.status $(study)

lint: $(VENV)/installed-test
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint

install: $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "allround needs Python 3.11 or newer, this is %d.%d" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/installed-slurm: $(VENV)/installed-test
	pip install --quiet --editable '.[slurm]'
	touch $@

clean:
	rm -rf $(VENV)
