# make demo: the main job, offline, in under two minutes      make test: the suite      make test-all: the long tests, too
SHELL := /bin/bash
# python3 where it is new enough, else the newest that is; Debian's may lack ensurepip
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9
PROBE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 9))
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(PROBE)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

# what differs on a Python without SparseML; the demo goes through training, checkpoints and export there
NEWEST_TESTS := tests/test_packaging.py tests/test_mends.py tests/test_engine.py tests/test_native_golden.py tests/test_marks.py

.PHONY: demo test test-all test-newest lint clean

demo: $(VENV)/.demo
	$(BIN)/yolov5-sparse demo

# commands are forked from a process that has torch in it already, which spares most of their start
PYTEST := $(BIN)/python -m pytest --warm

test: $(VENV)/.test
	$(PYTEST) -m 'not long' $(PYTEST_ARGS)

test-all: $(VENV)/.test
	$(PYTEST) $(PYTEST_ARGS)

test-newest: $(VENV)/.test
	$(PYTEST) -m 'not long' $(NEWEST_TESTS) $(PYTEST_ARGS)

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
