# secguard: `make demo` shows the main job, `make test` runs every test. Both set themselves up.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
RUN := $(BIN)/python -m
PYTEST_ARGS ?=
# Many tests wait for processes: one worker more than there are processors keeps them busy.
PYTEST_WORKERS ?= $$(($$(nproc) + 1))
DEMO_ARGS ?=
# Set in many containers; the tests start over a thousand processes, and each would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test lint format bench docs lock clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

.venv/.run-ready: pyproject.toml requirements.lock .ci/setup-env
	@.ci/setup-env run

.venv/.dev-ready: .venv/.run-ready tests/requirements.lock
	@.ci/setup-env dev

demo: .venv/.run-ready ## Run the main job end to end, on the embedded default
	@.ci/install-parts demo
	@$(BIN)/secguard demo $(DEMO_ARGS)

test: .venv/.dev-ready ## Run all tests (as root on Debian it installs the system parts, too)
	@.ci/install-parts test
	@$(RUN) pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: .venv/.dev-ready ## ruff, mypy --strict, the floors, module size
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@.ci/module-size

format: .venv/.dev-ready ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: .venv/.dev-ready ## Measure, and write docs/performance.md
	@.ci/install-parts test
	@$(BIN)/python tests/bench/run.py --write docs/performance.md

docs: .venv/.dev-ready ## Generate the command reference and the findings catalogue
	@$(RUN) secguard.cli.reference

lock: ## Renew the pinned dependencies (needs uv)
	uv pip compile --universal --generate-hashes --no-header --no-annotate --upgrade -q \
	  --python-version 3.11 --extra media --extra pkcs11 pyproject.toml -o requirements.lock
	uv pip compile --universal --generate-hashes --no-header --no-annotate --upgrade -q \
	  --python-version 3.11 --group test --group lint -c requirements.lock -o tests/requirements.lock

clean: ## Remove what the other targets made
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
