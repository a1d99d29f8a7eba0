# hwbench: `make demo` shows it, `make test` checks it. Both make .venv first.
PYTHON ?= python3
# A plain `torch` from PyPI may pull several GB of CUDA; set TORCH to what gives a CPU build where you are,
# e.g. make test TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
BIN := .venv/bin
BESIDE := --numprocesses logical --dist loadfile --no-loadscope-reorder --benchmark-disable

.PHONY: install demo test test-avx2 lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --group test --editable '.[onnxruntime,openvino,torch,sklearn,nncf,images,distributed]'
	$(BIN)/python -m pip install --quiet --no-deps tensorrt-cu13-bindings==11.4.0.106
	touch $@

demo: install
	$(BIN)/hwbench demo --out results/demo --overwrite

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What times or weighs processes runs after the rest, with nothing beside it.
test: lint
	$(BIN)/python -m pytest -m "not alone" $(BESIDE)
	$(MAKE) test-avx2
	$(BIN)/python -m pytest -m alone

# What depends on the processor's instruction set, once more on an emulated one with AVX2 and nothing newer; where this processor
# has nothing newer itself, or QEMU is not installed, it says so and does nothing.
test-avx2: install
	$(BIN)/python tests/avx2.py --timeout=900 $(BESIDE)

clean:
	rm -rf .venv dist build
