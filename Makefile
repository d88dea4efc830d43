# Two commands matter: `make demo` and `make test`. Each sets up what it needs in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check
export ORT_DISABLE_TELEMETRY := 1

.PHONY: demo test check bench programs clean

demo: $(VENV)/.demo
	$(BIN)/potstill demo $(DEMO)

test: $(VENV)/.test
	$(BIN)/pytest --cov -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST)

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python benchmarks/bench_train_step.py
	$(BIN)/python benchmarks/bench_memory.py
	$(BIN)/python benchmarks/bench_aggregator.py
	$(BIN)/python benchmarks/bench_round.py
	$(BIN)/python benchmarks/bench_size.py
	$(BIN)/python benchmarks/bench_reference.py

# The programs that ship with the package, compiled again from trainer/models.py (needs torch).
programs: $(VENV)/.test
	$(BIN)/python -m trainer.programs

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else \
	  "Potstill needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV) || { echo "No venv module: on Debian, apt-get install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.venv
	$(PIP) install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.venv
	$(PIP) install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.check: pyproject.toml $(VENV)/.venv
	$(PIP) install --quiet --editable '.[check]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
