# Each target sets up what it needs. VENV may name a virtual environment elsewhere; it is made where it is missing.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CONFIG ?= experiment_configs/quickstart.yaml
RUN ?= runs/quickstart
JOBS ?= 2

.PHONY: install quickstart fid-quickstart test gpu-check lint bench clean

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

# The same for Fusion-in-Decoder, from an index to an answered question; some six minutes on two cores.
FID := examples/fid_quickstart
fid-quickstart: install
	rm -rf runs/fid_quickstart runs/fid_index runs/fid_evaluation
	$(BIN)/rqa index --corpus $(FID)/corpus.jsonl --retriever bm25 --stopwords english --output runs/fid_index
	$(BIN)/rqa train experiment_configs/fid_quickstart.yaml --output-dir runs/fid_quickstart
	$(BIN)/python $(FID)/report.py runs/fid_quickstart
	$(BIN)/rqa evaluate --checkpoint runs/fid_quickstart --data $(FID)/validation.jsonl \
	    --index runs/fid_index --output-dir runs/fid_evaluation
	$(BIN)/rqa ask --checkpoint runs/fid_quickstart --index runs/fid_index "Who made the red lamp of the mill?"

# Everyday tests; SLOW=1 adds those that take longer. PYTEST passes options on, e.g. PYTEST='-k spans -x'. JOBS processes
# share the tests, one thread each: threads of several processes on the same cores wait for each other most of the time.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(if $(SLOW),,-m 'not slow') $(PYTEST)

# The tests that need a CUDA GPU, on one; at most 20 minutes. Without a GPU they fail here, and are skipped elsewhere.
gpu-check: install
	RQA_REQUIRE_GPU=1 timeout 1200 $(BIN)/python -m pytest -m gpu $(PYTEST)

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
