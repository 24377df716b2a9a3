# make help lists the targets. Everything runs in .venv, made on first use with the versions of constraints.txt.
PYTHON ?= python3
PIP_FLAGS ?=
EXPERIMENT ?= shapes
ARGS ?=
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)
RUN = $(BIN)/xconsensus run experiment=$(EXPERIMENT) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install reproduce published smoke test lint format build clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -nE 's/^([a-z0-9 -]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
	@echo "  EXPERIMENT=NAME (default shapes) and ARGS='key=value ...' go to xconsensus; PIP_FLAGS to pip"

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv (torch is large: this takes a few minutes once)"
	$(INSTALL) --editable .
	@touch $@

.venv/.tested: .venv/.installed
	$(INSTALL) --editable '.[test,build]'
	@touch $@

.venv/.linted: .venv/.installed
	$(INSTALL) --editable '.[test,lint]'
	@touch $@

install: .venv/.installed ## make .venv with the pinned dependencies

reproduce: .venv/.installed ## the whole experiment: train, explain, vote, score, plot
	@$(RUN)

fig2 fig3 fig4 fig5 fig6 fig8: fig%: .venv/.installed ## one figure of the paper, with all that it needs
	@$(RUN) figure=fig0$*

fig10: .venv/.installed ## figure 10
	@$(RUN) figure=fig10

table1 table2: .venv/.installed ## one table of the paper
	@$(RUN) figure=$@

published: .venv/.installed ## the figures and tables that the paper's own numbers allow, in seconds
	@$(BIN)/xconsensus plot source=published $(ARGS)

smoke: .venv/.installed ## every stage on the tiny committee with little of everything, in a minute
	@$(BIN)/xconsensus run experiment=smoke $(ARGS)

test: .venv/.tested ## the test suite
	@$(BIN)/python -m pytest $(ARGS)

lint: .venv/.linted ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/.linted ## let ruff format and mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

build: .venv/.tested ## the wheel, in dist/
	@$(BIN)/python -m build --wheel .

clean: ## remove .venv and build products, not outputs/
	rm -rf .venv build dist *.egg-info
