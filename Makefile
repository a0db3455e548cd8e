# Everything a newcomer needs: `make demo` and `make test` set up what they use on a machine with Python >= 3.11, a C++
# compiler and make. Run again, they start at once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export CORRMASK_WERROR ?= ON
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh') CMakeLists.txt setup.py

.PHONY: demo test lint build docs format sanitize clean
.DELETE_ON_ERROR:

demo: $(VENV)/.built  ## all of it on real cells, ending in demo/index.html
	$(BIN)/corrmask demo -o demo --overwrite

test: lint  ## formatters, linters, types, then the tests
	$(BIN)/python -m pytest

lint: $(VENV)/.built
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pre-commit run --all-files

build: $(VENV)/.built  ## (re)build the native libraries where csrc/ changed

docs: $(VENV)/.built  ## the pages, in docs/_build/index.html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

# The operators' tests under AddressSanitizer and UBSan, then a driver of the kernels under ThreadSanitizer.
SANITIZED := $(addprefix tests/test_,philox4x32.py sample_groups.py mask_tokens.py rank_encode.py bin_values.py \
	gather_tokens.py gather_batches.py sketch_values.py covariance.py topk_edges.py masking.py instruction_sets.py \
	ranking_instruction_sets.py)
sanitize: $(VENV)/.built  ## memory errors, undefined behaviour and races in the CPU kernels
	PATH="$(abspath $(BIN)):$$PATH" BIN="$(abspath $(BIN))" tests/sanitize/run $(SANITIZED)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' 'benchmarks/*.cu' 'tests/*.cpp' 'tests/*.h')

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "corrmask needs Python >= 3.11, $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch numpy setuptools pybind11 cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--no-build-isolation --editable '.[train,eval,dev,docs]'
	touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

clean:
	rm -rf build demo docs/_build docs/generated docs/jupyter_execute corrmask/*.so $(VENV)
