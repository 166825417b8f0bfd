# Each target sets up what it needs. VENV may name a virtual environment elsewhere; it is made where it is missing.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CONFIG ?= experiment_configs/quickstart.yaml
RUN ?= runs/quickstart

.PHONY: install quickstart test lint bench clean

install: $(VENV)/installed

# torch comes first and alone, at the pinned version: a range would let pip replace a CPU build by a CUDA one.
$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test,lint,bench]'
	touch $@

quickstart: install
	rm -rf $(RUN)
	$(BIN)/rqa train $(CONFIG) --output-dir $(RUN)
	$(BIN)/python examples/quickstart/report.py $(RUN)

# Everyday tests; SLOW=1 adds those that take longer. PYTEST passes options on, e.g. PYTEST='-k spans -x'.
test: install
	$(BIN)/python -m pytest $(if $(SLOW),,-m 'not slow') $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Twice: as glibc comes, and keeping freed memory, which costs the padded peers most (benchmarks/RESULTS.md).
KEEPING := GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=18446744073709551615
bench: install
	$(BIN)/python -m benchmarks $(BENCH)
	$(KEEPING) $(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
