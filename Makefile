# Shorthand for the public commands that README.md shows; nobody needs make.
PYTHON ?= python3
BIN = .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-all lint ui server

repro: $(BIN)/installed
	mistakes repair
	dvc repro

test: lint
	pytest --numprocesses logical --maxprocesses 4 -m "not slow"

# more processes than cores, since servers, queues and kills are waited for
test-all: lint
	bash tests/servers.sh
	pytest --numprocesses 3

lint: $(BIN)/installed-test
	ruff check .
	ruff format --check .
	mypy
	lint-imports

ui: $(BIN)/installed
	mistakes ui

server: $(BIN)/installed-server
	bash server/start.sh

$(BIN)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(BIN)/installed-server: $(BIN)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[remotes,server]'
	touch $@

$(BIN)/installed-test: $(BIN)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
