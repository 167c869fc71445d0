# Everything is installed into .venv by the first target that needs it, and only then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_INSTALLED := $(VENV)/.run
DEV_INSTALLED := $(VENV)/.dev
PROJECTS := packages/bg_pipeline_local_aws .
DECLARED := pyproject.toml packages/bg_pipeline_local_aws/pyproject.toml requirements/backend.txt

.PHONY: demo up test test-slow lint licenses audit requirements image clean

demo: $(RUN_INSTALLED)
	$(BIN)/bg-pipeline demo $(ARGS)

up: $(RUN_INSTALLED)
	$(BIN)/bg-pipeline up $(ARGS)

# Tests start many processes: bytecode is kept for the next one even where the environment says otherwise.
test test-slow: export PYTHONDONTWRITEBYTECODE =

test: $(DEV_INSTALLED)
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: $(DEV_INSTALLED)
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(DEV_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

licenses: $(DEV_INSTALLED)
	@$(BIN)/python scripts/licenses.py

# Known vulnerabilities of the pinned versions; it asks PyPI, or the database in ARGS (such as ARGS="-s osv").
# pip-audit has its own environment, because its dependencies are none of the project's.
AUDIT := .audit

audit: $(AUDIT)/bin/pip-audit
	$(AUDIT)/bin/pip-audit --disable-pip --require-hashes -r requirements/dev.txt $(ARGS)

$(AUDIT)/bin/pip-audit: requirements/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt

# The packages with their hashes, from the versions in constraints.txt and what pyproject.toml declares; tests compare them.
# run.txt is for `make demo` and the container image, dev.txt for the tests.
COMPILE = uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --no-header
RUN_EXTRAS := --extra api --extra masks --extra postgres --extra ui

requirements:
	$(COMPILE) -c constraints.txt $(RUN_EXTRAS) $(PROJECTS:%=%/pyproject.toml) -o requirements/run.txt
	$(COMPILE) -c constraints.txt $(RUN_EXTRAS) --extra c2pa --extra dev $(PROJECTS:%=%/pyproject.toml) -o requirements/dev.txt
	$(COMPILE) requirements/backend.in -o requirements/backend.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) requirements/audit.in -o requirements/audit.txt

# With docker, podman or buildah; ARGS has more options, such as ARGS="--platform linux/arm64".
image:
	$(firstword $(shell command -v docker podman buildah)) build --tag bg-pipeline $(ARGS) .

clean:
	rm -rf $(VENV) $(AUDIT) .bg_pipeline build *.egg-info

# uv is used when it is there, because it takes seconds where pip takes a minute. Everything that is fetched has a hash. The
# packages of this repository have none, so they come last, without their dependencies.
define install
	@echo "Installing requirements/$(1).txt into $(VENV) ..."
	@set -e; if command -v uv >/dev/null 2>&1; then \
		test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
		install="uv pip install --quiet --python $(BIN)/python --build-constraints requirements/backend.txt --no-deps"; \
		$$install --require-hashes -r requirements/$(1).txt; \
		$$install $(PROJECTS:%=-e %); \
	else \
		test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); \
		install="$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation"; \
		$$install --require-hashes -r requirements/backend.txt; \
		$$install --require-hashes -r requirements/$(1).txt; \
		$$install $(PROJECTS:%=-e %); \
	fi
endef

$(RUN_INSTALLED): $(DECLARED) requirements/run.txt
	$(call install,run)
	@touch $@

$(DEV_INSTALLED): $(DECLARED) requirements/dev.txt
	$(call install,dev)
	@touch $@ $(RUN_INSTALLED)
