# `make help` lists what there is to do. Everything runs in a virtual environment that is made here when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_SECONDS ?= 30

RERUN = $(BIN)/python -m pytest -q --last-failed --last-failed-no-failures none

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint conformance conformance-all bench install debian-packages clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("traceloop needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

# strict: links file by file, so that type checkers see through it; made anew each time, since files come and go.
install: $(BIN)/python ## install the package and what its development needs into .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]' --config-settings editable_mode=strict
	@# Where PYTHONDONTWRITEBYTECODE is set every process would compile it anew: 0.3 s at each start.
	@$(BIN)/python -m compileall -q build/__editable__.*/

debian-packages: ## install the Debian packages that some tests use (Prometheus, Alertmanager, wrk), as root
	@sh .ci/debian-packages

demo: $(BIN)/python ## install, then run examples/service.py under traceloop for half a minute and print the report
	@$(BIN)/python -m pip install -q --disable-pip-version-check '.[otlp]' 'aiohttp>=3.9'
	$(BIN)/traceloop run --report examples/service.py --seconds $(DEMO_SECONDS)

test: debian-packages install lint ## everything that has to pass: lint, types, tests, CPython's tests on this interpreter
	@# Some tests depend on time, and shared machines stand still: what fails is run again by itself, twice, before it counts.
	$(BIN)/python -m pytest -q -m "not slow" || $(RERUN) || $(RERUN)
	$(BIN)/python tests/conformance/run_cpython.py --python $(BIN)/python

test-all: debian-packages install lint ## make test and what takes longer
	$(BIN)/python -m pytest -q
	$(MAKE) conformance-all

lint: install ## ruff and mypy (strict)
	$(BIN)/ruff check .
	@# From inside the strict editable install, where exporters/ and cli/ stand in their places in the package.
	cd build/__editable__.*/ && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml

conformance: install ## CPython's own tests of asyncio on our loop, with this interpreter
	$(BIN)/python tests/conformance/run_cpython.py --python $(BIN)/python

conformance-all: install ## the same with every interpreter from 3.11 on that is found
	@for version in 3.11 3.12 3.13 3.14 3.15; do \
	  command -v python$$version >/dev/null || continue; \
	  echo "== python$$version"; $(BIN)/python tests/conformance/run_cpython.py --python python$$version || exit 1; \
	done

bench: install ## the benchmarks' table (docs/performance.md tells how to read it)
	$(BIN)/python benchmarks/run.py $(BENCH)

clean: ## remove what was made here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
