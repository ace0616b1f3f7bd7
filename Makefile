# Every target does its own set-up: a fresh clone needs Rust, Python >= 3.11 and make.

PYTHON ?= python3
VENV   := .venv
VPY    := $(VENV)/bin/python
IMAGES ?=
JOBS   ?=
BENCH  ?=

CARGO_JOBS := $(if $(JOBS),-j $(JOBS),)
LOOM_CRATE := polyproc-engine

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

# What the extension module is made of: a change in any of these rebuilds it.
RUST_SOURCES := Cargo.toml pyproject.toml $(wildcard Cargo.lock) \
	$(shell find crates/polyproc-engine crates/polyproc-python -name '*.rs' -o -name Cargo.toml 2>/dev/null)

.PHONY: help check-tools venv build demo test test-rust test-death test-loom test-python bench bench-python bench-rust lint fmt deny clean wheel conformance real-programs

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo
	@echo '  make demo IMAGES=DIR    the demo on your own pictures'
	@echo '  make bench BENCH=--quick    arguments for both (also: make bench-python, make bench-rust)'
	@echo '  make PYTHON=python3.13 ...  another interpreter (then `make clean` first)'

# One line for each thing that can be missing, and what to install.
check-tools:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || \
		{ echo "error: '$(PYTHON)' is not there: install Python 3.11 or newer, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1), too old: install Python 3.11 or newer, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: '$(PYTHON)' has no venv module: install python3-venv (Debian, Ubuntu) or your system's package for it" >&2; exit 1; }
	@command -v cargo >/dev/null 2>&1 || \
		{ echo "error: cargo is not there: install Rust 1.88 or newer (rustup, or your system's rust package)" >&2; exit 1; }
	@command -v cc >/dev/null 2>&1 || \
		{ echo "error: the C linker 'cc' is not there: install gcc or clang (Debian, Ubuntu: apt-get install gcc libc6-dev)" >&2; exit 1; }

venv: $(VENV)/.installed ## a local virtual environment with the build and test tools

$(VENV)/.installed: requirements/dev.txt
	@$(MAKE) --no-print-directory check-tools
	@test -x $(VPY) || "$(PYTHON)" -m venv $(VENV)
	@echo "installing requirements/dev.txt into $(VENV)"
	@$(VPY) -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

build: $(VENV)/.built ## compile the extension module into .venv

$(VENV)/.built: $(VENV)/.installed $(RUST_SOURCES)
	@$(MAKE) --no-print-directory check-tools
	@env -u CONDA_PREFIX VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(VENV)/bin/maturin develop --release $(CARGO_JOBS) 2>&1 | \
		{ grep -vE '^(Ignoring |Looking in )' || true; }
	@$(VPY) -m compileall -q python/polyproc  # as an installed package has it, whatever PYTHONDONTWRITEBYTECODE says
	@touch $@

demo: build ## thumbnails by a Pool, arrays through a Queue, a process killed inside a lock
	@$(VPY) demo/main.py $(if $(IMAGES),--images "$(IMAGES)",)

test: test-rust test-loom test-death test-python ## every test

# The testkit is left to test-death: it needs the kill points compiled in.
test-rust: check-tools ## unit and integration tests of the crates, and the examples
	cargo test --workspace --exclude polyproc-testkit --exclude polyproc-python --features polyproc/async,polyproc/tracing $(CARGO_JOBS)
	@if lib=$$("$(PYTHON)" tools/python_library.py); then \
		PYO3_PYTHON="$$(command -v "$(PYTHON)")" LD_LIBRARY_PATH="$$lib" cargo test -p polyproc-python --lib $(CARGO_JOBS); \
	else \
		echo "left out: the unit tests of polyproc-python, as this Python comes without a library to link a program with"; \
	fi

test-loom: check-tools ## the lock word and the sleeping protocol, in every interleaving
	@mkdir -p build
	RUSTFLAGS="--cfg loom" cargo test -p $(LOOM_CRATE) --lib loom --target-dir target/loom --release $(CARGO_JOBS) | tee build/loom.txt
	@! grep -q '^running 0 tests' build/loom.txt || { echo "error: no model was run: none has 'loom' in its path" >&2; exit 1; }

test-death: check-tools ## kills a process at every kill point in turn, then a storm
	cargo test -p polyproc-testkit --release $(CARGO_JOBS)

test-python: build ## the Python face, and the layer check
	$(VPY) -m pytest tests/python

bench: bench-python bench-rust ## polyproc beside Python's standard library, and beside its peers in Rust, as ratios

bench-python: build
	@$(VPY) -m compileall -q python/polyproc
	@$(VPY) bench/run.py $(BENCH)

bench-rust: check-tools
	@cargo build --quiet --release --manifest-path bench/rust/Cargo.toml $(CARGO_JOBS)
	@bench/rust/target/release/beside-peers $(BENCH)

wheel: venv ## the wheel and the source archive, tried with every CPython >= 3.11 there is
	@$(VPY) tools/wheel.py --maturin $(VENV)/bin/maturin --out build/dist --python "$(PYTHON)"

conformance: build ## CPython's own multiprocessing tests; CONFORMANCE='--python python3.13' and others
	@$(VPY) tools/conformance.py $(CONFORMANCE)

real-programs: build build/real-programs/.installed ## well-known programs, unchanged: the same output as on the standard library?
	@build/real-programs/.venv/bin/python tools/real_programs.py $(PROGRAMS)

build/real-programs/.installed: requirements/real-programs.txt
	@mkdir -p build/real-programs
	@$(VPY) -m venv build/real-programs/.venv
	@build/real-programs/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/real-programs.txt
	@build/real-programs/.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | \
		{ read -r site; echo "$(CURDIR)/python" > "$$site/polyproc.pth"; }
	@touch $@

lint: build ## format, clippy, types, layers
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features polyproc/async $(CARGO_JOBS) -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps -p polyproc -p polyproc-engine -p polyproc-macros --features polyproc/async $(CARGO_JOBS)
	$(VPY) -m mypy --strict python/polyproc
	$(VPY) -m mypy.stubtest polyproc._polyproc --allowlist tests/stubtest.txt --ignore-unused-allowlist
	$(VPY) tests/layers.py

fmt: ## format the Rust sources
	cargo fmt --all

deny: ## licences, advisories and sources of the dependencies (needs cargo-deny)
	cargo deny check

clean: ## remove what the other targets made
	rm -rf $(VENV) build target python/polyproc/*.so .pytest_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
