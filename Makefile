# make demo: the main job, offline, in under two minutes      make test: the whole test suite
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.10 python3.9; do $$p -c 'import ensurepip, venv' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/yolov5-sparse demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache && $(BIN)/mypy

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "SparseML needs Python 3.9, 3.10 or 3.11, and none of python3.11, python3.10, python3.9 runs here."; \
	  echo "Install one (Debian: apt install python3.11 python3.11-venv; or: pyenv install 3.11), then run make again."; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python setup.cfg setup.py
	@echo "Installing the plugin, YOLOv5 and PyTorch into $(VENV): some minutes and several GB the first time"
	$(BIN)/python -m pip install --quiet --editable '.[yolov5]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --editable '.[yolov5,test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
