# What to type. How things are compiled and which tests there are is in CMakeLists.txt; the targets
# here install what is missing (as root or through sudo; else they print the line that does).

BUILD  ?= build
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
PREFIX ?= /usr/local
CC     ?= cc
CFLAGS ?= -O3
ARGS   ?=

EXAMPLE_CFLAGS = -std=c99 $(CFLAGS) -Wall -Wextra -I. -Iexamples/common
EXAMPLE_LIBS   = -lm -pthread
# The fp32 model that quantized ones are compared with is as fast as this processor lets C be.
NATIVE         = $(shell $(CC) -march=native -E -x c /dev/null >/dev/null 2>&1 && echo -march=native)
NEED           = sh tests/scripts/need.sh
HEADERS        = $(wildcard awq*.h examples/common/*.h)
MAKEFLAGS     += --no-print-directory

help:
	@echo 'make demo        quantize a real transformer layer: table and picture, offline, in seconds'
	@echo 'make llm         quantize a real LLM and measure it; MODEL=x.gguf TEXT= CALIB= ARGS='
	@echo 'make test        all tests; installs cmake, cmocka, clang where they are missing'
	@echo 'make sanitize    the tests again under the address and undefined-behaviour sanitizers'
	@echo 'make golden      the reference cases in GOLDEN=folder'
	@echo 'make mutants     plant bugs in awq.h; each must turn the tests red (ten minutes)'
	@echo 'make firmware    inference on an emulated Cortex-M4, bit for bit as on this machine'
	@echo 'make board       the test bodies on that board (minutes)'
	@echo 'make bench       speed beside error and size; ARGS=--benchmark_filter=...'
	@echo 'make install     header, library, find_package(awq) and pkg-config into PREFIX=$(PREFIX)'
	@echo 'make clean       remove $(BUILD)/'

# ---- the main job --------------------------------------------------------------------------------

demo: $(BUILD)/demo/demo
	$(BUILD)/demo/demo --svg $(BUILD)/demo.svg $(ARGS)

llm: $(BUILD)/llm/llm
	MODEL='$(MODEL)' TEXT='$(TEXT)' CALIB='$(CALIB)' sh examples/llm/run.sh $(BUILD)/llm $(ARGS)

$(BUILD)/demo/demo: $(wildcard examples/demo/*.c examples/demo/*.h) $(HEADERS)
	@$(NEED) cc
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_CFLAGS) -Iexamples/demo $(wildcard examples/demo/*.c) -o $@ $(EXAMPLE_LIBS)

$(BUILD)/llm/llm: $(wildcard examples/llm/*.c examples/llm/*.h) $(HEADERS)
	@$(NEED) cc
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_CFLAGS) $(NATIVE) -Iexamples/llm $(wildcard examples/llm/*.c) -o $@ $(EXAMPLE_LIBS)

# ---- tests ---------------------------------------------------------------------------------------

test: tools
	cmake -S . -B $(BUILD)
	cmake --build $(BUILD) --parallel $(JOBS)
	cd $(BUILD) && ctest --output-on-failure --parallel $(JOBS)

golden: tools
	@test -d '$(GOLDEN)' || { echo 'usage: make golden GOLDEN=folder-of-cases'; exit 1; }
	cmake -S . -B $(BUILD)
	cmake --build $(BUILD) --parallel $(JOBS)
	cd $(BUILD) && AWQ_GOLDEN='$(abspath $(GOLDEN))' ctest --verbose -R golden

sanitize: tools
	bash tests/scripts/sanitize.sh $(BUILD)/sanitize

mutants: tools
	bash tests/scripts/mutants.sh $(BUILD)/mutants

firmware:
	@$(NEED) cc arm-cc arm-libc arm-qemu
	$(MAKE) -C examples/firmware BUILD=$(abspath $(BUILD))/firmware

board:
	@$(NEED) arm-cc arm-libc arm-qemu
	bash tests/scripts/board.sh $(BUILD)/board

tools:
	@$(NEED) cc c++ cmake pkg-config cmocka binutils --if-possible clang

# ---- measuring, installing -----------------------------------------------------------------------

bench:
	@$(NEED) cc c++ cmake benchmark
	cmake -S . -B $(BUILD)/bench -DCMAKE_BUILD_TYPE=Release -DAWQ_BUILD_TESTS=OFF -DAWQ_BUILD_BENCH=ON
	cmake --build $(BUILD)/bench --parallel $(JOBS)
	$(BUILD)/bench/bench/awq_bench $(ARGS)

install:
	@$(NEED) cc cmake
	cmake -S . -B $(BUILD)/install -DCMAKE_BUILD_TYPE=Release -DAWQ_BUILD_TESTS=OFF \
	    -DCMAKE_INSTALL_PREFIX=$(PREFIX)
	cmake --build $(BUILD)/install
	cmake --install $(BUILD)/install

clean:
	rm -rf $(BUILD)

.PHONY: help demo llm test golden sanitize mutants firmware board tools bench install clean
.DEFAULT_GOAL := help
