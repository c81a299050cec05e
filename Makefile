# Shorthand for the public commands that README.md shows; nobody needs make.
PYTHON ?= python3
BIN = .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test ui

repro: $(BIN)/installed
	dvc repro

test: $(BIN)/installed-test
	ruff check .
	ruff format --check .
	mypy
	pytest

ui: $(BIN)/installed
	mistakes ui

$(BIN)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(BIN)/installed-test: $(BIN)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
