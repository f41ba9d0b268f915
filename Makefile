# The front door for developers: `make help`. Users need none of this; pip builds the package by itself.
#
# PYTHON and CC choose the interpreter and the compiler. C tests are built apart from Python, into build/c-*; RUN is
# what runs them where the CPU is another one.

PYTHON ?= python3
CC ?= cc
CLANG ?= clang
CLANG_FORMAT ?= clang-format
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SECONDS_PER_TARGET ?= 60

# SAN=1 is AddressSanitizer and UBSan, SAN=thread is ThreadSanitizer; COV=1 counts lines for gcov.
comma := ,
ifdef SAN
  SANITIZERS := $(if $(filter 1,$(SAN)),address$(comma)undefined,$(SAN))
endif

VARIANT := $(notdir $(CC))$(if $(SAN),-san-$(SAN))$(if $(COV),-cov)
OUT := build/c-$(VARIANT)
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wvla -Werror
CFLAGS_ALL := -std=c11 -O2 -g -DLP_EMULATED= -ffp-contract=off -pthread $(WARNINGS) \
  $(if $(SAN),-g1 -O1 -DLP_NO_UNROLL= -fsanitize=$(SANITIZERS) -fno-sanitize-recover=all -fno-omit-frame-pointer) \
  $(if $(COV),-g1 -O1 -DLP_NO_UNROLL= --coverage -fprofile-update=atomic) $(CFLAGS)

CORE := $(filter-out csrc/python/%,$(wildcard csrc/*/*.c csrc/*/*/*.c))
HEADERS := $(filter-out csrc/python/%,$(wildcard csrc/*/*.h csrc/*/*/*.h))
# emu16.c and emu16_zen4.c include the variants that they emulate
HEADERS += $(wildcard csrc/kernels/variants/*.c)
TEST_HEADERS := $(wildcard tests/c/*.h fuzz/*.h)
C_FILES := $(wildcard csrc/*/*.[ch] csrc/*/*/*.[ch] tests/c/*.[ch] fuzz/*.[ch])
LIBRARY := $(OUT)/libllamaprobe.a
TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*.c))
EXHAUSTIVE := $(patsubst tests/c/%.c,%,$(wildcard tests/c/exhaustive_*.c))
FUZZ := $(patsubst fuzz/fuzz_%.c,%,$(wildcard fuzz/fuzz_*.c))
REPLAY := $(foreach name,$(FUZZ),$(if $(wildcard fuzz/corpus/$(name)/*),$(name)))

.PHONY: help build quick test full test-c test-variants test-aarch64 check-macos check-aarch64 docs test-py layout lint bench format format-check sanitize sanitize-threads fuzz replay \
  coverage exhaustive wheel clean
.DELETE_ON_ERROR:
.SECONDARY:

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## compile the C core into the checkout, so that `import llamaprobe` works here, with the kernels for tests
	LLAMAPROBE_EMULATED=1 $(PYTHON) setup.py -q build_ext --inplace

# two processes or more where pytest-xdist is installed; the tests of one file share one, and its fixtures
XDIST = $(if $(shell $(PYTHON) -c 'import xdist; print(1)' 2>/dev/null),-n $(JOBS) --dist loadfile)

quick: build ## within a minute: layout, the C tests that changed, the first case of each test that is neither slow nor needs torch
	$(PYTHON) -m pytest -q tests/test_layout.py
	$(MAKE) -s -j$(JOBS) test-c
	$(PYTHON) -m pytest -q $(XDIST) --quick --ignore=tests/test_layout.py $(PYTEST)

test: test-c replay test-py ## what proves the code right in minutes

full: test-c replay build ## test, and the slow tests
	$(PYTHON) -m pytest -q $(XDIST) --slow $(PYTEST)

test-py: build ## the tests of the package; PYTEST="-k checkpoint" narrows them
	$(PYTHON) -m pytest -q $(PYTEST)

test-c: $(TESTS:%=$(OUT)/%.passed) ## the tests of the C core without Python; SAN=1 under ASan and UBSan

test-variants: $(OUT)/test_kernels $(OUT)/test_forward ## each kernel variant, here and on older CPUs under QEMU
	$(OUT)/test_kernels
	$(OUT)/test_forward
	@if command -v qemu-x86_64 >/dev/null && [ "$$(uname -m)" = x86_64 ]; then $(MAKE) -s $(OLDER_CPUS); \
	else echo "older CPUs not run: they need qemu-x86_64 and an x86-64 machine"; fi

# MODEL.VARIANT: what dispatch must choose on such a CPU. Without FMA the C library's fmaf, which test_kernels compares
# with, takes minutes under emulation; the variant is the same code as here, and whole runs tell whether it works there.
OLDER_CPUS := Nehalem.generic Haswell.avx2
# features for operating systems, of which QEMU would warn
NOT_EMULATED := -pcid,-x2apic,-tsc-deadline,-invpcid,-hle,-rtm
EMULATED = qemu-x86_64 -cpu $(basename $@),$(NOT_EMULATED)
.PHONY: $(OLDER_CPUS)
$(OLDER_CPUS): $(OUT)/test_kernels $(OUT)/test_forward
	@echo "--- CPU model $(basename $@)"
	$(EMULATED) $(OUT)/test_forward $(subst .,,$(suffix $@))
	$(if $(filter %.generic,$@),,$(EMULATED) $(OUT)/test_kernels $(subst .,,$(suffix $@)))

test-aarch64: ## the C tests on an emulated AArch64: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user
	$(MAKE) test-c replay CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar \
	  RUN="env EMULATED=1 qemu-aarch64 -L /usr/aarch64-linux-gnu"

check-macos: ## compile and link the C core and its tests for macOS: pip install ziglang
	$(PYTHON) tools/check_macos.py build/macos

layout: ## who includes whom, what may stand where, how long a file may be
	$(PYTHON) -m pytest -q tests/test_layout.py

bench: build ## how fast it is on this machine; never part of the tests
	$(PYTHON) bench/forward.py $(BENCH)

format: ## lay out the C files the one way
	$(CLANG_FORMAT) -i $(C_FILES)

lint: format-check ## clang-format, ruff and mypy: pip install -e '.[style]'
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --config-file= --strict --follow-imports=silent examples/*.py # as a user's programs

format-check: ## fails where `make format` would change something
	$(CLANG_FORMAT) --dry-run --Werror $(C_FILES)

# The whole suite with a core that stops at the first bad access. The interpreter is not built that way, so the
# runtime is preloaded, leaks are CPython's own business, and its allocator steps aside. The variables are set for
# pytest alone: a compiler under the preloaded runtime would be checked as well. PYTHONSAFEPATH and the whole path
# let the children of tests find this core too, and not the one in the checkout.
ASAN_ENV = env LD_PRELOAD=$(shell $(CC) -print-file-name=libasan.so) PYTHONMALLOC=malloc \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

sanitize: ## C tests and Python tests under AddressSanitizer and UBSan
	$(MAKE) test-c replay SAN=1
	LLAMAPROBE_EMULATED=1 LLAMAPROBE_SANITIZE=1 $(PYTHON) setup.py -q build --build-base build/sanitize --build-lib build/sanitize/lib
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/sanitize/lib $(ASAN_ENV) $(PYTHON) -m pytest -q -s $(or $(PYTEST),--slow)

# The tests in Python whose work is done in C, but for those that compare with torch.
CORE_TESTS := $(patsubst %,tests/test_%.py,allocation array_file bad_inputs cache cancel checkpoint core dequant_gguf exact export \
  files gguf_reader gguf_reference hex limits load model packed plan points \
  safetensors_reference split sweep sweep_core text threads vectors)

sanitize-core: ## the same without the tests that hardly reach C: what CI does
	$(MAKE) sanitize PYTEST="--slow $(XDIST) $(CORE_TESTS)"

sanitize-threads: ## the C tests under ThreadSanitizer: the pool, and runs side by side
	TSAN_OPTIONS=die_after_fork=0 $(MAKE) test-c SAN=thread

coverage: ## which lines of the C core the tests in C and in Python reach together
	rm -f build/c-$(notdir $(CC))-cov/*.passed # or the counts of runs before would be the counts
	find build -path '*cov*' -name '*.gcda' -delete
	$(MAKE) test-c replay COV=1
	LLAMAPROBE_EMULATED=1 LLAMAPROBE_COVERAGE=1 $(PYTHON) setup.py -q build --build-base build/coverage --build-lib build/coverage/lib
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/coverage/lib $(PYTHON) -m pytest -q $(or $(PYTEST),--slow $(CORE_TESTS))
	$(PYTHON) tools/coverage_table.py --least 95 build/c-$(notdir $(CC))-cov build/coverage

exhaustive: $(EXHAUSTIVE:%=$(OUT)/%.passed) ## all 2^32 floats and the like: minutes to hours, before a release

fuzz: $(FUZZ:%=fuzz-%) ## let libFuzzer look for inputs that break the readers; SECONDS_PER_TARGET=600 for longer

replay: $(REPLAY:%=$(OUT)/replay_%.passed) ## what fuzzing and people found before, once more

wheel: ## sdist and the wheel made from it, into dist/, tested without a compiler on every CPython found; PYTHONS="..." chooses
	$(PYTHON) tools/make_wheel.py $(PYTHONS)

check-aarch64: ## build the extension for Linux on AArch64 and check its symbols: pip install ziglang pyelftools numpy setuptools
	$(PYTHON) tools/check_aarch64.py build/aarch64

docs: ## the documentation as a site, build/docs/index.html: pip install -e '.[docs]'
	$(PYTHON) -m sphinx --fresh-env --fail-on-warning --keep-going --quiet --builder html docs build/docs

clean: ## remove what was built
	rm -rf build dist *.egg-info
	rm -f llamaprobe/_core*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- how ---------------------------------------------------------------------------------------------------------

$(OUT)/%.o: %.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c $< -o $@

$(patsubst %.c,$(OUT)/%.o,$(wildcard tests/c/*.c fuzz/*.c)): $(TEST_HEADERS)

$(LIBRARY): $(CORE:%.c=$(OUT)/%.o)
	@rm -f $@
	$(AR) -rcs $@ $^

# A test that defines __wrap_malloc, itself or by faults.h, wants the calls of malloc.
$(OUT)/test_%: $(OUT)/tests/c/test_%.o $(LIBRARY)
	$(CC) $(CFLAGS_ALL) $^ -lm -o $@ \
	  $(shell cd tests/c && grep -oh '__wrap_[a-z0-9_]*' test_$*.c $$(grep -o 'faults\.h' test_$*.c) | sort -u | sed 's/__wrap_/-Wl,--wrap=/')

$(OUT)/exhaustive_%: $(OUT)/tests/c/exhaustive_%.o $(LIBRARY)
	$(CC) $(CFLAGS_ALL) $^ -lm -o $@

# A fuzz target is a function; tests/c/replay.c gives it a main that feeds it files.
$(OUT)/replay_%: $(OUT)/fuzz/fuzz_%.o $(OUT)/tests/c/replay.o $(LIBRARY)
	$(CC) $(CFLAGS_ALL) $^ -lm -o $@

$(OUT)/replay_%.passed: $(OUT)/replay_% $(wildcard fuzz/corpus/*/*)
	$(RUN) $< $(wildcard fuzz/corpus/$*)
	@touch $@

$(OUT)/%.passed: $(OUT)/%
	$(RUN) $<
	@touch $@

# The core is compiled once for all targets. Unrolled kernels would take clang minutes each under sanitizers.
FUZZ_CFLAGS := -std=c11 -O1 -g1 -DLP_EMULATED= -DLP_NO_UNROLL= -ffp-contract=off -pthread -fno-sanitize-recover=all

build/fuzz/%.o: %.c $(HEADERS) $(TEST_HEADERS)
	@mkdir -p $(@D)
	$(CLANG) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link,address,undefined -c $< -o $@

build/fuzz/fuzz_%: build/fuzz/fuzz/fuzz_%.o $(CORE:%.c=build/fuzz/%.o)
	$(CLANG) $(FUZZ_CFLAGS) -fsanitize=fuzzer,address,undefined $^ -lm -o $@

# New finds go to build/; the committed corpus is only read. A model is larger than what libFuzzer tries by itself.
FUZZ_FLAGS_open_run := -max_len=24576
fuzz-%: build/fuzz/fuzz_%
	@mkdir -p build/fuzz/found-$*
	cd build/fuzz && ./fuzz_$* -max_total_time=$(SECONDS_PER_TARGET) -timeout=10 $(FUZZ_FLAGS_$*) \
	  $(addprefix -dict=../../,$(wildcard fuzz/$*.dict)) found-$* $(addprefix ../../,$(wildcard fuzz/corpus/$*))
