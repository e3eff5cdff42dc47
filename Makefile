# QATLadder: `make help` explains every target.
SHELL := /bin/bash
PYTHON := .venv/bin/python
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup zoo sweep ui test lint bench boards boards-stop schema lock clean distclean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  QATLADDER_VENDOR=0 leaves out the proprietary vendor packages; QATLADDER_HOME moves the data folder (default: var/)."

setup: ## create .venv and .venv-vendor (done once, then checked by stamp)
	@scripts/setup.sh

zoo: setup ## train the sample zoo (done once, then checked by content)
	@$(PYTHON) include/zoo/train.py

sweep: zoo ## validate the whole sample zoo through Airflow and print the verdicts
	@$(PYTHON) -m qatladder.airflow.services sweep

ui: setup ## start Airflow on 127.0.0.1 with the sweeps so far; Ctrl-C stops it
	@$(PYTHON) -m qatladder.airflow.services ui

test: zoo lint ## every test: unit, integration, faults, end to end; PYTEST_ARGS="tests/unit -k word" for some
ifdef PYTEST_ARGS
	@$(PYTHON) -m pytest $(PYTEST_ARGS)
else
	@$(PYTHON) -m pytest -n 2 --dist loadfile --cov --cov-report= tests/unit tests/integration
	@$(PYTHON) -m pytest --cov --cov-append --cov-report=term tests/faults tests/e2e
endif

lint: setup ## ruff, mypy --strict, import layers
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: setup ## measure speed as ratios, side by side in one run, against numpy, OpenCV and Polygraphy
	@$(PYTHON) -m pip install -qq --disable-pip-version-check --no-deps --upgrade --target var/bench -r requirements-bench.txt
	@PYTHONPATH=var/bench $(PYTHON) -m pytest tests/bench --no-header -q -s -p no:cacheprovider -o python_files='bench_*.py'

boards: setup ## start the virtual boards of the sample fleet in the background
	@.venv/bin/qatladder board start

boards-stop: ## stop the virtual boards
	@.venv/bin/qatladder board stop

schema: setup ## write the JSON schema of zoo entries for editors
	@.venv/bin/qatladder zoo schema > include/zoo/zoo.schema.json.part && mv include/zoo/zoo.schema.json.part include/zoo/zoo.schema.json

lock: ## resolve requirements*.in anew (needs uv on PATH)
	@scripts/lock.sh

clean: ## delete work files and caches; keeps environments, trained zoo, evidence
	@rm -rf var/work .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build .coverage

distclean: clean ## delete everything that is not in version control, evidence included
	@rm -rf var .venv .venv-vendor include/*.egg-info
