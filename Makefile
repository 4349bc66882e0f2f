# hcviz: two commands are enough, `make demo` and `make test`; both install what is missing.
# On Windows without make, the README has the same lines by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.hcviz-installed
ARGS ?=
JOBS ?= 2

# uv looks for a Python by itself; a PYTHON that somebody set goes before it.
UV_PICK := $(if $(filter file default undefined,$(origin PYTHON)),,--python $(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz browser lint audit lab app gallery notebooks
.DELETE_ON_ERROR:

help: ## list these targets (the default)
	@echo "make TARGET [PYTHON=python3.12] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## install hcviz and its tools into .venv (uv if it is there, else pip)

# One thread a process: models so small that threads would only wait for one another.
demo: $(STAMP) ## run the main job: clone, train, measure, draw; ARGS go to `hcviz demo`
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/hcviz demo $(ARGS)

test: $(STAMP) ## run the tests in JOBS processes; ARGS go to pytest, as in ARGS="-k plots"
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

fuzz: $(STAMP) ## feed 10,000 damaged files and odd options to every reader; HCVIZ_FUZZ=N for another number
	HCVIZ_FUZZ=$${HCVIZ_FUZZ:-10000} OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_fuzz.py $(ARGS)

browser: $(STAMP) ## open the notebooks in a real browser (needs Chromium) and move their sliders
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,app,browser]'
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest tests/browser $(ARGS)

lint: $(STAMP) ## check code and notebooks with ruff, and their formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

audit: $(STAMP) ## look the pinned packages up among known vulnerabilities (needs a network)
	$(BIN)/python -m pip install -q pip-audit
	$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip

lab: $(STAMP) ## open JupyterLab on the tour
	$(BIN)/jupyter lab notebooks/00_tour.ipynb $(ARGS)

app: $(STAMP) ## open the tour as an app without code, with Voila
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,app]'
	$(BIN)/hcviz lab --app $(ARGS)

gallery: $(STAMP) ## render the notebooks into gallery/: pages that need no kernel and no network
	$(BIN)/python notebooks/gallery.py $(ARGS)

notebooks: $(STAMP) ## train the recorded runs of the notebooks again (a day or more; goes on after a stop)
	$(BIN)/hcviz demo --record data/runs/demo --overwrite
	@set -e; export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}; \
	for name in long breakers growing; do \
		$(BIN)/python data/runs/$$name.py runs/$$name; \
		$(BIN)/python data/runs/$$name.py runs/$$name --frames; \
		mkdir -p data/runs/$$name; \
		cp runs/$$name/frames/* data/runs/$$name; \
	done

# One of the two files is newer than the stamp only after a change: then pip or uv looks again.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if command -v uv >/dev/null 2>&1; then \
		test -x $(BIN)/python || uv venv --seed $(UV_PICK) $(VENV); \
		uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
		if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
			command -v $(PYTHON) >/dev/null 2>&1 || { \
				echo "hcviz needs Python 3.11 or newer, and '$(PYTHON)' was not found." \
				"Install it, or name yours: make setup PYTHON=python3.12" >&2; exit 1; }; \
			$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
				echo "hcviz needs Python 3.11 or newer, and '$(PYTHON)' is `$(PYTHON) --version 2>&1`." \
				"Name another: make setup PYTHON=python3.12" >&2; exit 1; }; \
			$(PYTHON) -m venv $(VENV); \
		fi; \
		$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'; \
	fi
	@touch $(STAMP)
