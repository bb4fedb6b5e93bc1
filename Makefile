# `make help` lists what there is to do. Everything runs in a virtual environment that is made here when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_SECONDS ?= 30

CONSTRAINTS := constraints.txt
PROGRESS := @sh .ci/progress
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS)
PYTEST := $(BIN)/python -m pytest -q
#: Processes that run tests side by side.
WORKERS ?= 3

#: The folders of what is in C.
NATIVE := traceloop/core/native/* traceloop/record/native/* traceloop/reading/decoding/native/* exporters/otlp/native/*

# What is installed is known by a sum over names of files and what they say of dependencies: strict links stand for
# single files, so one that comes or goes counts.
INSTALLED := $(VENV)/.installed-$(shell { find traceloop exporters cli dashboards docs -type f ! -name '*.pyc' ! -name '*.so' | sort; \
	cat setup.py $(NATIVE) pyproject.toml $(CONSTRAINTS) buildtools/*.* buildtools/scripts/*; } | cksum | cut -d' ' -f1)

# Where the locale is C, Python reads and writes UTF-8 of its own accord, unless these forbid it.
unexport PYTHONUTF8 PYTHONCOERCECLOCALE PYTHONIOENCODING

.DEFAULT_GOAL := help
# A virtual environment that could not be finished has a python, and no pip: the next `make` begins it anew.
.DELETE_ON_ERROR:
.PHONY: help demo docs test test-all lint conformance conformance-all bench install native wheel constraints debian-packages clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("traceloop needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	$(PROGRESS) "making $(VENV)" sh .ci/venv $(PYTHON) $(VENV)

install: $(INSTALLED) ## install the package and what its development needs into .venv

# strict: links file by file, so that type checkers see through it.
$(INSTALLED): | $(BIN)/python
	@rm -f $(VENV)/.installed-*
	$(PROGRESS) "installing traceloop and what its development needs" $(PIP) -e '.[dev]' --config-settings editable_mode=strict
	@# Where PYTHONDONTWRITEBYTECODE is set every process would compile it anew: 0.3 s at each start.
	$(PROGRESS) "compiling it" sh -c '$(BIN)/python -m compileall -q build/__editable__.*/'
	@# What is in C, where it could be built: beside its sources too, for those who run from the checkout.
	@cp build/__editable__.*/traceloop/core/_core*.so traceloop/core/ 2>/dev/null || true
	@cp build/__editable__.*/traceloop/reading/decoding/_reader*.so traceloop/reading/decoding/ 2>/dev/null || true
	@cp build/__editable__.*/traceloop/exporters/otlp/_packer*.so exporters/otlp/ 2>/dev/null || true
	@touch $@

native: $(BIN)/python ## build what is in C, beside its sources
	$(PIP) 'setuptools>=77'
	$(BIN)/python setup.py -q build_ext --inplace

wheel: $(BIN)/python ## build a wheel into dist/ that needs no compiler (manylinux; made without one: plain Python)
	@rm -rf build/wheel
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w build/wheel .
	@sh .ci/manylinux $(BIN)/python build/wheel dist

constraints: ## choose the newest versions of what development needs, and write them down in constraints.txt
	@rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	$(PROGRESS) "choosing versions" build/constraints/bin/python -m pip install -q --upgrade --upgrade-strategy eager '.[dev]'
	@head -2 $(CONSTRAINTS) >build/constraints.txt
	@build/constraints/bin/python -m pip freeze --exclude traceloop-eventloop >>build/constraints.txt
	@mv build/constraints.txt $(CONSTRAINTS)

debian-packages: ## install the Debian packages that some tests use (Prometheus, Alertmanager, Chromium, Firefox, CPython's own tests), as root
	@sh .ci/debian-packages $(PYTHON)

demo: $(BIN)/python ## install, then run examples/service.py under traceloop for half a minute and print the report
	@rm -f $(VENV)/.installed-*
	$(PROGRESS) "installing traceloop" $(PIP) '.[otlp]' 'aiohttp>=3.9'
	$(BIN)/traceloop run --report examples/service.py --seconds $(DEMO_SECONDS)

test: debian-packages install lint ## everything that has to pass: lint, types, tests, CPython's tests on this interpreter
	@# Those that are run again are named and counted, and are few or it fails: each is a fault to be looked into.
	$(PYTEST) -n $(WORKERS) --dist worksteal --reruns 1 -m "not slow and not timing"
	@# With nothing beside them.
	$(PYTEST) -n 1 --reruns 2 -m "timing and not slow"
	$(MAKE) conformance

test-all: debian-packages install lint ## make test and what takes longer
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not timing"
	$(PYTEST) -n 1 --reruns 2 -m "timing"
	$(MAKE) conformance-all

lint: install ## ruff, mypy (strict), and a compiler's warnings of the C files
	$(PROGRESS) "ruff" $(BIN)/ruff check .
	@sh .ci/compile-native $(BIN)/python
	@# From inside the strict editable install, where exporters/ and cli/ stand in their places in the package.
	$(PROGRESS) "mypy" sh -c 'cd build/__editable__.*/ && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml'

conformance: install ## CPython's own tests of asyncio on our loop, with this interpreter
	$(BIN)/python tests/conformance/run_cpython.py --details --python $(BIN)/python

conformance-all: install ## the same with every interpreter from 3.11 on that is found
	@for version in 3.11 3.12 3.13 3.14 3.15; do \
	  command -v python$$version >/dev/null || continue; \
	  echo "== python$$version"; $(BIN)/python tests/conformance/run_cpython.py --details --python python$$version || exit 1; \
	done

bench: install ## the benchmarks' table (docs/performance.md tells how to read it)
	$(BIN)/python benchmarks/run.py $(BENCH)

docs: $(BIN)/python ## build the documentation as a site into build/site; a link that leads nowhere fails
	$(PROGRESS) "installing what the site needs" $(PIP) 'mkdocs>=1.6' 'mkdocs-material>=9.5'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

clean: ## remove what was made here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
