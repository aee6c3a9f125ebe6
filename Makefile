# Everything runs in a virtual environment of its own; PYTHON must be 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
AUDIT ?= .venv-audit
BIN := $(VENV)/bin
# As many processes as cores, of one thread each: more threads than cores would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
UNIT := -m 'not training and not slow' --ignore=tests/end_to_end --ignore=tests/page

.PHONY: help install demo test test-unit test-lowest lint audit docs bench clean

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
	$(PYTEST) $(UNIT)

# In an environment of its own, whose versions uv chooses. Torch and torchvision, which are gigabytes, are those of `make install`.
test-lowest: install  ## run those tests with the lowest versions that pyproject.toml takes, but for torch
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(BIN)/python -m pip freeze | sed -nE 's/^(torch|torchvision)==([^+]*).*/\1==\2/p' > $(LOWEST)/torch.txt
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--constraint $(LOWEST)/torch.txt --extra test pyproject.toml --output-file $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --no-deps -r $(LOWEST)/lowest.txt -e .
	$(subst $(BIN)/,$(LOWEST)/bin/,$(PYTEST)) $(UNIT)

lint: install   ## check format, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

audit:          ## look the versions that CI pins up in the database of known vulnerabilities at osv.dev
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit
	$(AUDIT)/bin/pip-audit --vulnerability-service osv --disable-pip --no-deps --requirement .ci/constraints.txt

docs: install   ## build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install  ## time STPM and RD beside anomalib's, in 20 minutes on two cores; OPTIONS=--quick in 3
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python experiments/speed/peers.py $(OPTIONS)

clean:          ## remove the environments
	rm -rf $(VENV) $(LOWEST) $(AUDIT)
