# Everything is installed into .venv by the first target that needs it, and only then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_INSTALLED := $(VENV)/.run
DEV_INSTALLED := $(VENV)/.dev
DECLARED := pyproject.toml packages/bg_pipeline_local_aws/pyproject.toml constraints.txt

.PHONY: demo up test test-slow lint licenses audit requirements image clean

demo: $(RUN_INSTALLED)
	$(BIN)/bg-pipeline demo $(ARGS)

up: $(RUN_INSTALLED)
	$(BIN)/bg-pipeline up $(ARGS)

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
	$(AUDIT)/bin/pip-audit --disable-pip --no-deps -r constraints.txt $(ARGS)

$(AUDIT)/bin/pip-audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1

# The image's packages with their hashes, from constraints.txt and what pyproject.toml declares; a test compares them.
COMPILE = uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --no-header

requirements:
	$(COMPILE) -c constraints.txt --extra api --extra masks --extra postgres --extra ui \
		pyproject.toml packages/bg_pipeline_local_aws/pyproject.toml -o requirements/image.txt
	$(COMPILE) requirements/build.in -o requirements/build.txt

# With docker, podman or buildah; ARGS has more options, such as ARGS="--platform linux/arm64".
image:
	$(firstword $(shell command -v docker podman buildah)) build --tag bg-pipeline $(ARGS) .

clean:
	rm -rf $(VENV) $(AUDIT) .bg_pipeline build *.egg-info

# A comma inside $(call …) would end its argument.
RUN_EXTRAS := local,masks,ui
DEV_EXTRAS := local,masks,c2pa,dev,api,ui,postgres

# uv is used when it is there, because it takes seconds where pip takes a minute.
define install
	@echo "Installing .[$($(1))] into $(VENV) ..."
	@if command -v uv >/dev/null 2>&1; then \
		test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e packages/bg_pipeline_local_aws -e ".[$($(1))]"; \
	else \
		test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); \
		$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e packages/bg_pipeline_local_aws -e ".[$($(1))]"; \
	fi
endef

$(RUN_INSTALLED): $(DECLARED)
	$(call install,RUN_EXTRAS)
	@touch $@

$(DEV_INSTALLED): $(DECLARED)
	$(call install,DEV_EXTRAS)
	@touch $@ $(RUN_INSTALLED)
