# The two commands of the README are 'make demo' and 'make test'; both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
PYTEST := $(BIN)/python -m pytest
# Most tests wait for sockets and timers: four processes keep two cores busy. A file's tests stay together.
SIDE_BY_SIDE ?= -n 4 --dist loadfile

.PHONY: demo run pump test check bench soak conformance fuzz tools lock coverage image clean help

help:           ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(RUN): requirements.lock pyproject.toml
	@echo "setting up $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(DEV): $(RUN) requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.lock
	@$(BIN)/python tools/build_pump.py
	@touch $@

demo: $(RUN)    ## gateway, simulated cameras, recorder and upper platform; prints the URL
	@$(BIN)/gb-gateway demo $(ARGS)

run: $(RUN)     ## the gateway itself
	@$(BIN)/gb-gateway run $(ARGS)

pump: $(DEV)    ## the compiled packet pump (needs a C compiler and Python's headers)
	@$(BIN)/python tools/build_pump.py --required

tools:          ## outside programs for the interoperability tests (Debian, root)
	@tools/install_tools.sh

test: $(DEV) tools ## all tests; writes build/conformance.json
	@mkdir -p build
	@GB_CONFORMANCE=1 $(PYTEST) $(SIDE_BY_SIDE) $(ARGS)

coverage: $(DEV) tools ## which lines the tests run, in one process; writes build/coverage.txt
	@mkdir -p build
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine -q && $(BIN)/coverage report -m --skip-covered > build/coverage.txt && tail -1 build/coverage.txt

check: $(DEV)   ## lint, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

conformance:    ## which of the 289 checks have a passing test (after make test)
	@$(PYTHON) tools/conformance.py

bench: $(DEV)   ## benchmarks with ratios against baselines in the same run; writes build/bench.json
	@mkdir -p build
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(DEV)    ## half an hour of work at 60 % load (SOAK_MINUTES); writes build/soak.json
	@mkdir -p build
	@$(BIN)/python -m benchmarks.soak

fuzz: $(DEV)    ## long fuzzing of every parser (GB_FUZZ_ROUNDS per target)
	@GB_FUZZ_ROUNDS=$${GB_FUZZ_ROUNDS:-200000} $(PYTEST) tests/fuzz -q --timeout 3600

lock: $(DEV)    ## renew the lock files
	@$(BIN)/python -m pip install -q uv
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

image:          ## container image
	docker build -t gb28181-gateway .

clean:          ## remove what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
