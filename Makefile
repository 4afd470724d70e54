# The commands of this repository, for those who have make. Nothing here is needed that pip alone cannot do: the README
# has the same set-up as one line.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check lint stats format lock wheel image clean

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1: \2/p' $(MAKEFILE_LIST)

# The environment follows the lock and the project file; edits of the code need no new one.
$(READY): requirements-test.lock pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(BIN)/python:
	python3 -m venv $(VENV)

demo: $(READY) ## run a whole canary rollout on this machine
	$(BIN)/gateway demo

test: $(READY) ## run the tests
	$(BIN)/python -m pytest --ignore tests/repo/test_checks.py

check: lint test ## run everything that CI runs: style, types, architecture, tests

lint: $(READY) ## check style, types and architecture
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

stats: $(READY) ## measure how fast and how often wrongly the verdict engine decides (minutes)
	$(BIN)/python loadtests/statistics/detection.py --out detection.jsonl

format: $(READY) ## lay the code out and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Hashes of the public index's files and of nothing else: settings of this machine (other indexes, folders of wheels)
# are kept out. The second file takes the versions of the first.
COMPILE := env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL -u PIP_INDEX_URL PIP_CONFIG_FILE=/dev/null \
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras \
	--allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

lock: | $(BIN)/python ## pin the newest releases that pyproject.toml allows
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip-tools>=7.5'
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --output-file requirements-test.lock --extra test --extra load --extra train \
		--constraint requirements.lock pyproject.toml

wheel: $(READY) ## build dist/*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

image: ## build the container image
	docker build --tag canary-gateway .

clean: ## remove what building and testing left
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
