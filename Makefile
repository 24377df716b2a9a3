# make help lists the targets. Everything runs in .venv, made on first use with the versions of constraints.txt.
PYTHON ?= python3
PIP_FLAGS ?=
EXPERIMENT ?= shapes
ARGS ?=
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)

# EXPERIMENT=paper stands for the paper's own experiments, whose data lie below ARGS=root=FOLDER: which figure is of which
PAPER_imagenet := fig1 fig2 fig5 fig6 fig7 fig12 fig13 table1 table2 sec452 paper
PAPER_cub := fig3 fig4 fig5 fig6 fig8 fig10 fig14 fig15 table2 paper
PAPER_cars := fig11 paper
PAPER_flowers := fig11 paper
PAPER_foods := fig11 paper
PAPER := imagenet cub cars flowers foods
# the experiments that make the present target
RUNS = $(if $(filter paper,$(EXPERIMENT)),$(foreach each,$(PAPER),$(if $(filter $@,$(PAPER_$(each))),$(each))),$(EXPERIMENT))
PANELS_paper := 'plot.panels=[cars196/cars20,flowers102/flowers20,food101/foods20]'
SEVERAL_paper := coco
SEVERAL_shapes := shapes_several
# fig04 for fig4
NAME = $(if $(filter fig1 fig2 fig3 fig4 fig5 fig6 fig7 fig8,$@),$(subst fig,fig0,$@),$@)

.DEFAULT_GOAL := help
.PHONY: help install install-slurm reproduce paper published smoke test test-authors authors-table test-authors-files \
        test-cluster test-faults test-lowest audit lint format build clean fig1 fig2 fig3 fig4 fig5 fig6 fig7 fig8 \
        fig9 fig10 fig11 fig12 fig13 fig14 fig15 table1 table2 sec51 sec452
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -nE 's/^([a-z0-9 -]+):.*## (.*)/  make \1\n      \2/p' $(MAKEFILE_LIST)
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

.venv/.clustered: .venv/.tested
	$(INSTALL) --editable '.[test,joblib,slurm,ray]'
	@touch $@

.venv/.linted: .venv/.installed
	$(INSTALL) --editable '.[test,lint]'
	@touch $@

# all that .ci/run needs, resolved once
.venv/.checked: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[build,lint,test]'
	@touch .venv/.installed .venv/.tested .venv/.linted $@

.venv/.audited: .venv/.installed
	$(INSTALL) --editable '.[audit]'
	@touch $@

# PaddleClas's own networks, with which the authors' are compared
.venv-authors/.installed: scripts/paddle_reference.txt
	@$(PYTHON) -m venv .venv-authors
	@.venv-authors/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $< $(PIP_FLAGS)
	@touch $@

install: .venv/.installed ## make .venv with the pinned dependencies

reproduce: .venv/.installed ## the whole experiment: train, explain, vote, score, plot
	@$(BIN)/xconsensus run experiment=$(EXPERIMENT) $(ARGS)

fig1 fig2 fig3 fig4 fig5 fig6 fig7 fig8 fig10 fig12 fig13 fig14 fig15 table1 table2 sec452: .venv/.installed ## one figure or table of the paper, with all that it needs
	@for each in $(RUNS); do $(BIN)/xconsensus run experiment=$$each figure=$(NAME) $(ARGS) || exit; done

fig9 sec51: .venv/.installed ## images of several objects: figure 9, and section 5.1's precision by their number and size
ifeq ($(EXPERIMENT),shapes)
	@$(BIN)/xconsensus finetune experiment=shapes $(ARGS)
endif
	@$(BIN)/xconsensus run experiment=$(or $(SEVERAL_$(EXPERIMENT)),coco_sample) $(ARGS)

fig11: .venv/.installed ## figure 11; with EXPERIMENT=paper of cars, flowers and food
	@for each in $(RUNS); do $(BIN)/xconsensus run experiment=$$each figure=fig05 $(ARGS) || exit; done
	@$(BIN)/xconsensus plot experiment=$(firstword $(RUNS)) figure=fig11 explainer=lime $(PANELS_$(EXPERIMENT)) $(ARGS)

paper: .venv/.installed ## every figure and table; EXPERIMENT=paper runs the paper's own experiments
	@for each in $(RUNS); do $(BIN)/xconsensus run experiment=$$each $(ARGS) || exit; done
	@$(MAKE) --no-print-directory fig9 fig11 published

published: .venv/.installed ## the figures and tables that the paper's own numbers allow, in seconds
	@$(BIN)/xconsensus plot source=published $(ARGS)

smoke: .venv/.installed ## every stage on the tiny committee with little of everything, in a minute
	@$(BIN)/xconsensus run experiment=smoke $(ARGS)

test: .venv/.tested ## the test suite
	@$(BIN)/python -m pytest $(ARGS)

install-slurm: ## SLURM by apt-get, unless it is there
	@tests/install_slurm

test-cluster: .venv/.clustered install-slurm ## explain on SLURM and Ray, two nodes of each started here
	@XCONSENSUS_CLUSTER=1 $(BIN)/python -m pytest tests/test_cluster.py tests/test_slurm.py $(ARGS)

test-authors: .venv/.tested .venv-authors/.installed ## the authors' 91 networks against PaddleClas itself, in .venv-authors (0.9 GB)
	@XCONSENSUS_PADDLE=.venv-authors/bin/python $(BIN)/python -m pytest --dist load tests/test_authors.py $(ARGS)

authors-table: .venv/.tested .venv-authors/.installed ## docs/authors.md, after comparing what build/authors.csv lacks
	@mkdir -p build
	@XCONSENSUS_AUTHORS_ROWS=build/authors.csv $(MAKE) --no-print-directory test-authors
	@$(BIN)/python scripts/authors_table.py

test-authors-files: .venv/.tested ## two files of the authors against the models they were converted from (downloads 1 GB)
	@XCONSENSUS_AUTHORS_FILES=1 $(BIN)/python -m pytest tests/test_authors.py -k converted $(ARGS)

test-faults: .venv/.tested ## kill -9 at 32 moments of finetune, explain, vote and score, in two minutes
	@KILLS=8 $(BIN)/python -m pytest tests/test_faults.py -k killed $(ARGS)

# strict: a version that PyPI knows nothing of is no clean one
test-lowest: ## the test suite with the lowest version of every direct dependency, in .venv-lowest (downloads gigabytes)
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) $$($(PYTHON) scripts/lowest.py)
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@.venv-lowest/bin/python -m pytest $(ARGS)

audit: .venv/.audited ## look the pinned versions up among PyPI's known vulnerabilities (needs PyPI itself)
	@$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off || \
	{ echo 'audit: not passed: what is listed above is vulnerable, or PyPI itself, no mirror, could not be asked' >&2; exit 1; }

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
	rm -rf .venv .venv-authors .venv-lowest build dist *.egg-info
