# The commands of this repository, for those who have make. Nothing here is needed that pip alone cannot do: the README
# has the same set-up as one line.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test durations scenarios compiled systems pipelines dashboards browser screenshots deploy nightly check lint shape stats oracles pictures chaos scale format lock wheel image clean

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
	$(BIN)/python -m pytest -n auto

durations: $(READY) ## write down how long each file of the tests takes, for the order of the next run
	$(BIN)/python -m pytest -n auto --junitxml=build/tests.xml
	$(BIN)/python -m tests.support.durations build/tests.xml

scenarios: $(READY) ## whole rollouts to their verdicts, and the demo's scenarios (minutes)
	.ci/scenarios

compiled: $(READY) ## run the data plane's tests on the compiled wheel (minutes)
	.ci/compiled

systems: $(READY) ## judge good and bad canaries behind real model servers, each in an environment of its own
	.ci/systems

dashboards: $(READY) ## send every query of dashboards and rules to a real Prometheus
	.ci/dashboards

pipelines: $(READY) ## start rollouts from real registries and pipelines, each in an environment of its own
	.ci/pipelines

browser: $(READY) ## drive the console with Chromium: every page and button, a lost stream, scenarios of the demo
	.ci/browser

screenshots: $(READY) ## draw the pictures of console and report from runs of the demo
	.ci/browser --pictures

deploy: $(READY) ## prove the chart, the bases and the pod that they make (as root)
	.ci/deploy

SEEDS ?= 0:10000
nightly: $(READY) ## live 10,000 seeds of the control plane's simulation (SEEDS=from:to)
	SIM_SEEDS=$(SEEDS) $(BIN)/python -m pytest -q -s tests/sim

check: lint test ## run both

lint: $(READY) ## check style, types, architecture, the Dockerfile and the links in the papers
	.ci/lint

shape: $(READY) ## print how long and how entangled the code is (BEFORE=commit beside it, NAMES=1 for what is counted)
	@$(BIN)/python -m tools.shape $(if $(BEFORE),--before $(BEFORE)) $(if $(NAMES),--names)

# The longest first. What each prints is in build/stats.
STATS := paired_requests weather whole known returning bursts tolerances promotion guarded metrics outcomes answers detection rules sticky paths intervals
RESULTS := loadtests/statistics/results
stats: $(READY) ## measure how fast and how often wrongly the verdict engine decides (two cores: an hour)
	@mkdir -p build/stats
	@printf '%s\n' $(STATS) | xargs -P $$(nproc) -I{} sh -c '\
	  $(BIN)/python -m loadtests.statistics.{} --out $(RESULTS)/{}.jsonl > build/stats/{}.txt 2>&1 && echo "{}: done" || \
	  { echo "{}: a bound lies beyond its alpha, or it failed: build/stats/{}.txt"; exit 1; }'

# The newest releases, in an environment that nothing else uses; the results say which they were.
oracles: ## ask independent packages for the values that the tests compare this engine with
	python3 -m venv build/oracles
	build/oracles/bin/pip install --quiet --disable-pip-version-check confseq savvi spotify-confidence
	build/oracles/bin/python -m loadtests.statistics.oracles --out $(RESULTS)/oracles.jsonl

pictures: $(READY) ## write the tables and draw the pictures of docs/statistics.md from the results of `make stats`
	$(BIN)/python -m loadtests.statistics.tables
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[stats]'
	$(BIN)/python -m loadtests.statistics.pictures

SECONDS ?= 3600
chaos: $(READY) ## an hour of load while faults of everything around are injected at random, then check the books (SECONDS=120)
	$(BIN)/python -m loadtests.chaos --seconds $(SECONDS)

scale: $(READY) ## the data plane's bounds at their full size: 1,000 slow readers, 10,000 departures, 50 reloads (minutes)
	GATEWAY_SLOW_READERS=1000 GATEWAY_DISCONNECTS=10000 GATEWAY_PIPELINED=100000 GATEWAY_RELOADS=50 \
		$(BIN)/python -m pytest -o faulthandler_timeout=3000 tests/proxy/test_listener.py tests/e2e/test_reload.py

format: $(READY) ## lay the code out and fix what ruff can fix
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
	$(COMPILE) --output-file requirements-test.lock --extra test --extra codings --extra otel --extra load --extra stats --extra train --extra s3 \
		--constraint requirements.lock pyproject.toml
	$(COMPILE) --output-file requirements-image.lock --extra otel --constraint requirements.lock --constraint requirements-test.lock pyproject.toml

wheel: $(READY) ## build dist/*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

image: ## build the container image
	docker build --tag canary-gateway .

clean: ## remove what building and testing left
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
