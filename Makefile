# make demo: the main job, offline, in under two minutes      make test: the whole test suite
SHELL := /bin/bash
# python3 where it is new enough, else the newest that is; Debian's may lack ensurepip
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9
PROBE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 9))
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(PROBE)' 2>/dev/null && echo $$p && break; done)
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
	@test -n "$(PYTHON)" || { echo "This needs Python 3.9 or newer with ensurepip and venv; none of these is that: $(PYTHONS)."; \
	  echo "Install one (Debian: apt install python3 python3-venv; or: pyenv install 3.13), then run make again."; exit 1; }
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
