# Each target works from a bare clone: it makes the environment that it needs, once, and then does its work.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
SHELL  := bash
ARGS   :=
TORCH  :=

# Without a GPU torch's small CPU build does it all: TORCH=cpu, where an environment is made.
ifeq ($(TORCH),cpu)
export PIP_EXTRA_INDEX_URL := https://download.pytorch.org/whl/cpu
endif

# Notebooks that are tested or saved again train their networks anew, in a run store that goes when they are done.
FRESH := runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && export SPARSITY_RUNS="$$runs" &&

# Notebooks that are tested train two seeds each, and all else is as committed; FEW= trains every seed.
FEW := -p tests.few_seeds

.DEFAULT_GOAL := help
.PHONY: help figure test check cluster lab notebooks bench gpu site bounds install clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  PYTHON=python3.12 makes the environment with another Python (3.11 to 3.13; now: $(PYTHON))."
	@echo "  TORCH=cpu makes it with the small CPU build of torch."

figure: install  ## label noise and sparsity (Figure 6) at sparsity 0.95, into out/
	@mkdir -p out
	$(PY) -m papermill notebooks/fig6_noise.ipynb out/fig6_noise.ipynb -p sparsity 0.95
	@echo "The figure and its verdicts are in out/fig6_noise.ipynb. 'make lab' opens it."

test: install  ## lint, format and types of code and notebooks, the tests, and every notebook
	@$(MAKE) --no-print-directory check PY=$(PY)

# The same in an environment that is there already: make check PY=python. A worker a core, a thread a worker.
check: export OMP_NUM_THREADS = 1
check:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m binder.badges --check
	$(PY) -m mypy
	$(PY) -m pytest -n auto --dist worksteal --doctest-modules lib studies tests
	@echo "every notebook, from an empty run store"
	@$(FRESH) $(PY) -m pytest -n auto $(FEW) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks

cluster: install  ## the long tests of sweeps on a cluster: workers that die, come late or are refused
	OMP_NUM_THREADS=1 $(PY) -m pytest -m cluster tests/runs/test_cluster.py $(ARGS)

lab: install  ## JupyterLab, opened at the notebooks (ARGS="--no-browser --port 8890" passes options on)
	$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

notebooks: install  ## run every notebook with its defaults (preset quick) and save it with its outputs
	@$(FRESH) $(PY) -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.kernel_name=python3 \
	  --ExecutePreprocessor.timeout=600 --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

bench: install  ## measure speed and memory (ARGS passes options on)
	$(PY) -m benchmarks $(ARGS)

gpu: install  ## on a machine with a GPU: is it as on the CPU, and how fast; writes results/gpu-*.md
	$(PY) -m benchmarks.gpu $(ARGS)

site: install  ## the gallery, into build/site: every notebook as a page, the scoreboard, the API reference
	$(PY) -m pip install --disable-pip-version-check -q -e '.[site]'
	$(PY) docs/build.py build/site

# As Colab has it: the packages installed, the notebook alone in another folder; and the oldest versions that
# pyproject.toml allows of what it names (its lower bounds), which the tests must pass with.
bounds:  ## the oldest versions allowed, in an environment of their own: build/bounds, tests and a notebook
	@rm -rf build/bounds && $(PYTHON) -m venv build/bounds
	build/bounds/bin/python -m pip install --disable-pip-version-check -q uv
	build/bounds/bin/uv pip install --python build/bounds/bin/python --resolution lowest-direct '.[notebooks,test]'
	@folder=$$(mktemp -d) && cp notebooks/fig6_noise.ipynb $$folder && home=$$PWD && cd $$folder && \
	  $$home/build/bounds/bin/python -m papermill fig6_noise.ipynb out.ipynb -p seeds 6 -k python3
	OMP_NUM_THREADS=1 build/bounds/bin/python -m pytest -n auto tests

install: $(STAMP)  ## the environment alone: .venv with everything in requirements.txt

clean:  ## remove .venv, out/ and caches; image sets and runs under data/ stay
	rm -rf .venv out build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1). Name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# ensurepip finishes an environment whose making was interrupted
$(STAMP): requirements.txt pyproject.toml $(PY)
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PY) -m ensurepip
	@echo "Installing into $(VENV): some minutes, once."
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@
