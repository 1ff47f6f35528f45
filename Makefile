# What a newcomer types. Needs Python 3.11 or newer and make; everything else is installed here.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo env test test-containers check bench clean

demo: .venv/examples.done  ## train four models in parallel and pick the best, in this process
	$(BIN)/python examples/train_and_pick.py

env: .venv/examples.done  ## fresh secrets for docker-compose.yml, in .env
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/env

test: .venv/dev.done  ## the whole suite, with a real RabbitMQ
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test

test-containers: .venv/dev.done  ## the services' images, built and run by a Docker engine
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test tests/containers --verbose

check: .venv/dev.done  ## format, lint, types, imports
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

bench: .venv/bench.done  ## leveret beside its peers; BENCH="--quick" for two minutes
	$(BIN)/python -m benchmarks $(BENCH)

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "leveret needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'

.venv/examples.done: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e '.[examples]'
	touch $@

.venv/dev.done: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet -e '.[examples]' --group dev
	touch $@

.venv/bench.done: pyproject.toml .venv/dev.done
	$(BIN)/pip install --quiet --group bench
	touch $@

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
