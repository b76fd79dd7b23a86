# make help lists what you can do. Every target first sets up what it needs and is quick the second time.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup gl browser book pdf test test-long lint lab assignments slides assets clean distclean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## make .venv with the exact working set

$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found: install one, or name it with PYTHON=/path/to/python."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || bash book/system.sh python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps dm_control==1.0.28; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

gl:
	@bash book/system.sh libegl1 libopengl0 libgl1-mesa-dri

browser: $(READY)
	@bash book/system.sh chromium

book: setup gl  ## execute the notebooks and render the book (PRESET=laptop)
	$(BIN)/python book/build.py --preset $(or $(PRESET),laptop)

pdf: book browser  ## print the book to _build/book.pdf
	$(BIN)/python book/pdf.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb notebooks/assignments/*.ipynb
	$(BIN)/pyright --pythonpath $(BIN)/python

test: setup gl browser lint  ## check format and types, then run the tests (at most 20 minutes)
	$(BIN)/python -m pytest $(TESTS)

test-long: setup gl browser  ## what needs longer: many kills, fresh environments, every task
	$(BIN)/python -m pytest -m long --timeout 2400 $(TESTS)

lab: setup gl  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

assignments: setup  ## draw, release and check the four assignments (SEED="any text of your own")
	$(BIN)/python -m apv_edu.classroom.release --seed "$(or $(SEED),0)"

slides: setup gl  ## make slides of the chapters' headings and figures (PRESET=laptop)
	$(BIN)/python book/slides.py --preset $(or $(PRESET),laptop)

assets: setup  ## rewrite the checksums of assets/ after a file there has changed
	$(BIN)/python -m apv_edu.assets

clean:  ## remove what was built, keep .venv
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf $(VENV)
