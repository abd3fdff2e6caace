# What to type. How things are compiled and which tests there are is in CMakeLists.txt; the targets
# here install what is missing (as root or through sudo; else they print the line that does).

BUILD  ?= build
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
PREFIX ?= /usr/local
CC     ?= cc
CFLAGS ?= -O3
ARGS   ?=
RUNS   ?= 1000000
PORT   ?= 8000

EXAMPLE_CFLAGS = -std=c99 $(CFLAGS) -Wall -Wextra -I. -Iexamples/common
EXAMPLE_LIBS   = -lm -pthread
# The fp32 model that quantized ones are compared with is as fast as this processor lets C be.
NATIVE         = $(shell $(CC) -march=native -E -x c /dev/null >/dev/null 2>&1 && echo -march=native)
NEED           = sh tests/scripts/need.sh
BENCH_BUILD    = $(BUILD)/bench$(patsubst %,-%,$(filter-out cc,$(notdir $(CC))))
AWQ_BENCH      = $(BENCH_BUILD)/bench/awq_bench
HEADERS        = $(wildcard awq*.h examples/common/*.h examples/formats/*.h)
FORMATS        = $(wildcard examples/formats/*.c)
COMMON         = $(wildcard examples/common/*.c)
MAKEFLAGS     += --no-print-directory

help:
	@echo 'make demo        quantize a real transformer layer: table and picture, offline, in seconds'
	@echo 'make llm         quantize a real LLM and measure it; MODEL=file-or-folder TEXT= CALIB= ARGS='
	@echo 'make search      semantic search: quantize a sentence encoder, index FOLDER=, ask; MODEL='
	@echo 'make web         the same in a browser, served on PORT=8000'
	@echo 'make quality     every way to quantize, measured: error, embeddings, perplexity; ARGS="--table groups"'
	@echo 'make convert     other layouts for a quantized model; ARGS="IN --list", "IN OUT --to gptq"'
	@echo 'make mpi         quantize and run that LLM by several processes (Open MPI); RANKS="1 2 3 4"'
	@echo 'make python      the same layer from Python: table and picture; ARGS="--bits 3"'
	@echo 'make test        all tests; installs cmake, cmocka, clang where they are missing'
	@echo 'make sanitize    the tests again under the address and undefined-behaviour sanitizers'
	@echo 'make test-cuda   the CUDA header: all cases under emulation, every architecture compiled'
	@echo 'make golden      the reference cases in GOLDEN=folder'
	@echo 'make fuzz        the readers of foreign files under libFuzzer; RUNS=10000000'
	@echo 'make mutants     plant bugs; each must turn the tests red (an hour)'
	@echo 'make firmware    inference on an emulated Cortex-M4, bit for bit as on this machine'
	@echo 'make board       the test bodies on that board (minutes)'
	@echo 'make test-isa    the test bodies on emulated Arm, RISC-V, s390x, x86-64, wasm; ISA=aarch64'
	@echo 'make test-web    the page of make web in headless Chromium: the answers of the native host'
	@echo 'make count-isa   instructions per multiply-accumulate there; ISA=aarch64/i8mm'
	@echo 'make bench       speed beside error and size; ARGS=--benchmark_filter=...'
	@echo 'make time-7b     time and memory of every step on the linears of a 7B model; ARGS="--layers 32"'
	@echo 'make bench-report   the same beside other libraries, into docs/performance.md (half an hour)'
	@echo 'make gpu         the CUDA header on this machine'\''s GPU: checks, then times beside torch'
	@echo 'make shared      the shared library, for other languages: build/shared/'
	@echo 'make install     header, library, find_package(awq) and pkg-config into PREFIX=$(PREFIX)'
	@echo 'make clean       remove $(BUILD)/'

# ---- the main job --------------------------------------------------------------------------------

demo: $(BUILD)/demo/demo
	$(BUILD)/demo/demo --svg $(BUILD)/demo.svg $(ARGS)

llm: $(BUILD)/llm/llm
	MODEL='$(MODEL)' TEXT='$(TEXT)' CALIB='$(CALIB)' sh examples/llm/run.sh $(BUILD)/llm $(ARGS)

convert: $(BUILD)/convert/convert
	$(BUILD)/convert/convert $(ARGS)

search: $(BUILD)/search/search
	MODEL='$(MODEL)' FOLDER='$(FOLDER)' sh examples/search/run.sh $(BUILD) $(ARGS)

web: $(BUILD)/search/search
	@$(NEED) python3
	sh examples/web/site.sh $(BUILD)
	@echo 'Open http://127.0.0.1:$(PORT)/ in a browser; Ctrl-C ends.'
	python3 -m http.server --bind 127.0.0.1 --directory $(BUILD)/web $(PORT)

$(BUILD)/demo/demo: $(wildcard examples/demo/*.c examples/demo/*.h) $(HEADERS)
	@$(NEED) cc
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_CFLAGS) -Iexamples/demo $(wildcard examples/demo/*.c) -o $@ $(EXAMPLE_LIBS)

$(BUILD)/llm/llm: $(wildcard examples/llm/*.c examples/llm/*.h) $(FORMATS) $(COMMON) $(HEADERS)
	@$(NEED) cc json
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_CFLAGS) $(NATIVE) -Iexamples/llm $(wildcard examples/llm/*.c) $(FORMATS) $(COMMON) -o $@ $(EXAMPLE_LIBS) -ljansson

SEARCH = $(wildcard examples/search/*.c) $(addprefix examples/formats/,json.c safetensors.c) $(COMMON)

# OpenBLAS, where there is one, is what the fp32 model is timed with.
$(BUILD)/search/search: $(SEARCH) $(wildcard examples/search/*.h) $(HEADERS)
	@$(NEED) cc json --if-possible openblas
	@mkdir -p $(@D)
	@blas=$$(echo 'int main(void) { return 0; }' | $(CC) -o /dev/null -x c - -lopenblas 2>/dev/null && \
	    echo -DSEARCH_OPENBLAS -lopenblas); set -x; \
	$(CC) $(EXAMPLE_CFLAGS) $(NATIVE) $(SEARCH) -o $@ $(EXAMPLE_LIBS) -ljansson $$blas

quality: $(BUILD)/quality/quality $(BUILD)/llm/llm
	TEXT='$(TEXT)' CALIB='$(CALIB)' sh examples/quality/run.sh $(BUILD) $(ARGS)

ENCODER = $(addprefix examples/search/,bert.c embed.c encoder.c passages.c wordpiece.c) \
    $(addprefix examples/formats/,json.c safetensors.c) $(COMMON)

$(BUILD)/quality/quality: $(wildcard examples/quality/*.c examples/quality/*.h examples/search/*.h) $(ENCODER) $(HEADERS)
	@$(NEED) cc json
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_CFLAGS) $(NATIVE) $(wildcard examples/quality/*.c) $(ENCODER) -o $@ $(EXAMPLE_LIBS) -ljansson -ldl

python: shared $(BUILD)/venv/ready
	AWQ_LIBRARY=$(BUILD)/shared $(BUILD)/venv/bin/python examples/python/lesson.py \
	    --picture $(BUILD)/python.png $(ARGS)

# NumPy and matplotlib from PyPI; where that is out of reach, Debian's.
$(BUILD)/venv/ready: examples/python/requirements.txt
	@$(NEED) venv
	python3 -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet -r $< || { $(NEED) numpy matplotlib && \
	    /usr/bin/python3 -m venv --clear --system-site-packages $(@D); }
	@touch $@

CONVERT = $(wildcard examples/convert/*.c) $(addprefix examples/llm/,names.c rope.c rope_order.c hf_config.c)

$(BUILD)/convert/convert: $(CONVERT) $(wildcard examples/convert/*.h examples/llm/*.h) $(FORMATS) $(HEADERS)
	@$(NEED) cc json
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_CFLAGS) $(CONVERT) $(FORMATS) -o $@ $(EXAMPLE_LIBS) -ljansson

# The parts of examples/llm without its main program.
LLM_PARTS = $(filter-out %/main.c %/study.c,$(wildcard examples/llm/*.c)) $(FORMATS) $(COMMON)

mpi: $(BUILD)/mpi/mpi
	MODEL='$(MODEL)' CALIB='$(CALIB)' RANKS='$(RANKS)' sh examples/mpi/run.sh $(BUILD)/mpi $(ARGS)

$(BUILD)/mpi/mpi: $(wildcard examples/mpi/*.c examples/mpi/*.h examples/llm/*.h) $(LLM_PARTS) $(HEADERS)
	@$(NEED) cc json mpi
	@mkdir -p $(@D)
	OMPI_CC='$(CC)' mpicc $(EXAMPLE_CFLAGS) $(NATIVE) -Iexamples/mpi $(wildcard examples/mpi/*.c) $(LLM_PARTS) \
	    -o $@ $(EXAMPLE_LIBS) -ljansson

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
	AWQ_SANITIZE_SIMD=1 bash tests/scripts/sanitize.sh $(BUILD)/sanitize-simd

test-cuda: tools
	cmake -S . -B $(BUILD)
	cmake --build $(BUILD) --parallel $(JOBS) --target test_cuda_emu test_cuda_75 test_cuda_80 test_cuda_90
	cd $(BUILD) && AWQ_TEST_FULL=1 ctest --output-on-failure --parallel $(JOBS) -R test_cuda
	bash tests/scripts/cuda.sh 75 80 86 89 90a 100a 120a ptx || test $$? = 77

fuzz:
	@$(NEED) cc pkg-config json clang fuzzer
	bash tests/scripts/fuzz.sh $(BUILD)/fuzz $(RUNS)

mutants: tools
	bash tests/scripts/mutants.sh $(BUILD)/mutants

firmware:
	@$(NEED) cc arm-cc arm-libc arm-qemu
	$(MAKE) -C examples/firmware BUILD=$(abspath $(BUILD))/firmware

board:
	@$(NEED) arm-cc arm-libc arm-qemu
	bash tests/scripts/board.sh $(BUILD)/board

test-isa:
	@$(NEED) cc
	bash tests/scripts/isa.sh $(BUILD)/isa $(ISA)

# 77: there is no Chromium, as its last line says.
test-web: $(BUILD)/search/search
	@$(NEED) python3 --if-possible chromium
	sh examples/web/site.sh $(BUILD)
	python3 examples/web/check.py $(BUILD)/search/search $(BUILD)/web $(ARGS) || test $$? = 77

count-isa:
	@$(NEED) cc
	bash tests/scripts/count.sh $(BUILD)/count $(ISA)

tools:
	@$(NEED) cc c++ cmake pkg-config cmocka json binutils --if-possible clang fuzzer numpy mpi

# ---- measuring, installing -----------------------------------------------------------------------

bench: bench-build
	$(AWQ_BENCH) $(ARGS)

bench-build:
	@$(NEED) cc c++ cmake benchmark --if-possible openblas
	cmake -S . -B $(BENCH_BUILD) -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=$(CC) \
	    -DAWQ_BUILD_TESTS=OFF -DAWQ_BUILD_BENCH=ON
	cmake --build $(BENCH_BUILD) --parallel $(JOBS)

time-7b: $(BUILD)/time-7b/seven_b
	$(BUILD)/time-7b/seven_b $(ARGS)

$(BUILD)/time-7b/seven_b: bench/seven_b.c $(HEADERS)
	@$(NEED) cc
	@mkdir -p $(@D)
	$(CC) $(EXAMPLE_CFLAGS) bench/seven_b.c -o $@ $(EXAMPLE_LIBS)

# The peers are optional: what is not there is named in the report. PEERS= adds packages.
bench-peers:
	@$(NEED) venv
	@test -d $(BUILD)/peers || python3 -m venv $(BUILD)/peers
	$(BUILD)/peers/bin/pip install --quiet -r bench/peers.txt $(PEERS) || \
	    echo 'note: no peers from PyPI: the report says so' >&2

bench-report: bench-build bench-peers
	$(BUILD)/peers/bin/python bench/report.py --bench $(AWQ_BENCH) \
	    --peers $(BUILD)/peers/bin/python --results $(BUILD)/report $(ARGS)

# Needs what a GPU machine has: nvidia-smi, nvcc, python3 with torch. Says which is missing.
gpu:
	@sh bench/gpu/run.sh $(BUILD)/gpu $(ARGS)

shared:
	@$(NEED) cc cmake
	@cmake -S . -B $(BUILD)/shared -DCMAKE_BUILD_TYPE=Release -DAWQ_BUILD_TESTS=OFF \
	    -DBUILD_SHARED_LIBS=ON >/dev/null
	cmake --build $(BUILD)/shared

install:
	@$(NEED) cc cmake
	cmake -S . -B $(BUILD)/install -DCMAKE_BUILD_TYPE=Release -DAWQ_BUILD_TESTS=OFF \
	    -DCMAKE_INSTALL_PREFIX=$(PREFIX)
	cmake --build $(BUILD)/install
	cmake --install $(BUILD)/install

clean:
	rm -rf $(BUILD)

.PHONY: help demo llm search web quality convert mpi python test test-web test-cuda golden \
        sanitize fuzz mutants firmware board test-isa count-isa tools bench bench-build bench-peers bench-report \
        gpu time-7b shared install clean
.DEFAULT_GOAL := help
