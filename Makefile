# Everything runs in a virtual environment of its own; PYTHON must be 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# As many processes as cores, of one thread each: more threads than cores would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: help install demo test test-unit lint docs bench clean

help:           ## list the targets
	@grep -E '^[a-z-]+: *.*##' $(MAKEFILE_LIST) | sed -E 's/: *.*## */\t/' | expand -t 14

install: $(VENV)/installed  ## create the environment and install kdad with its test tools

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("kdad needs Python 3.11 or newer, found " + sys.version.split()[0] + ": make PYTHON=python3.11 names another")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

demo: install   ## train and test reverse distillation on the demo photographs
	$(BIN)/python -m kdad.run model=rd dataset=demo backbone=efficientnet_lite0

test: install   ## run every test
	$(PYTEST)

test-unit: install  ## run the tests without training, in a minute on two cores
	$(PYTEST) -m 'not training and not slow' --ignore=tests/end_to_end --ignore=tests/page

lint: install   ## check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

docs: install   ## build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install  ## time STPM and RD beside anomalib's, in 20 minutes on two cores; OPTIONS=--quick in 3
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python experiments/speed/peers.py $(OPTIONS)

clean:          ## remove the environment
	rm -rf $(VENV)
