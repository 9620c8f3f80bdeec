# The tasks of a checkout. Each target installs what it needs; python3 (3.11 or newer) and make
# are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := $(VENV)/.demo
COMPILED := $(VENV)/.compiled
RIVALS := $(VENV)/.rivals
HOT := $(shell sed -n 's|^  "\([cps][a-z]*/.*\.py\)",$$|\1|p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-console screenshots quick check format blocking compile test-compiled test-integrations conformance-jetstream simulate simulate-cluster simulate-nodes torture-nodes mutants fuzz torture torture-clients torture-kill torture-projections torture-groups torture-cluster mutants-cluster bench bench-quick bench-restart bench-aggregates bench-paired bench-archive bench-connections bench-console bench-unkind journey fixture site wheel wheels pins clean

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: $(COMPILED)  ## Create .venv with all dependencies

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is required; choose one with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	HEADWATER_PURE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable ".[dev]"
	@touch $@

# If a source is newer than its compiled module, the source runs, with a warning. This recompiles.
$(COMPILED): $(READY) hatch_build.py $(HOT)
	@echo "Compiling the hot modules; this takes some minutes. Without it, everything runs more slowly."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

compile: $(COMPILED)  ## Recompile the hot modules if their sources have changed

# What the demo needs and no more: it runs the source, and neither builds a package (for which pip
# would fetch a compiler of Python) nor needs the tools of `make setup`.
$(DEMO): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is required; choose one with PYTHON=…" >&2; exit 1; }
	@echo "Installing what the server needs into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["dependencies"], *project["optional-dependencies"]["server"], sep="\n")' \
	  > $(VENV)/demo.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/demo.txt
	@touch $@

demo: $(if $(wildcard $(READY)),$(READY),$(DEMO))  ## Load a month of flights, kill the server halfway, show that nothing is lost
	@PYTHONPATH=protocol:client:server $(BIN)/python -c \
	  'from headwater.cli.demo import demo; demo(prog_name="headwater demo")'

test: $(READY)  ## Run the whole test suite
	$(BIN)/pytest -n logical --dist worksteal --ignore tests/console/test_browser.py

quick: $(READY)  ## Run the fast tests (under a minute): no crash searches, models, processes
	$(BIN)/pytest -q -n logical --dist worksteal -m "not slow" tests/protocol tests/storage \
	  tests/engine tests/net tests/isolation tests/simulation tests/test_tidy.py

# Needs a Chromium. Where this runs as root with apt, it installs Debian's; elsewhere it says so.
test-console: $(READY)  ## Run the console's tests in a real browser, installing Chromium where it may
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get -qq update && apt-get -qq install -y chromium >/dev/null; } \
	  || echo "no chromium, and this user cannot install it: the tests in a browser are skipped" >&2
	$(BIN)/pytest -q tests/console/test_browser.py

screenshots: $(READY)  ## Take the pictures of the console for the docs; needs Chromium
	$(BIN)/python -m tests.console.screenshots

test-compiled: $(COMPILED)  ## Run the black-box tests on the compiled modules
	HEADWATER_PURE=0 HEADWATER_SIMULATION_SEEDS=50 HEADWATER_SIMULATION_FROM=1001 \
	  $(BIN)/pytest -q -n logical --dist worksteal tests/net tests/isolation tests/protocol \
	  tests/engine/test_model.py tests/engine/test_recovery.py tests/test_kill.py tests/simulation \
	  tests/test_bare_client.py tests/test_guarantees.py
	HEADWATER_PURE=0 $(BIN)/pytest -q tests/fuzz/test_messages.py -k survives
	HEADWATER_PURE=0 $(BIN)/pytest -q -n logical tests/fuzz/test_arguments.py \
	  tests/fuzz/test_intruders.py

# Each integration with the library that it is for, and the tests of that library.
INTEGRATIONS := $(patsubst integrations/%/pyproject.toml,%,$(wildcard integrations/*/pyproject.toml))
INTEGRATED := $(VENV)/.integrated
$(INTEGRATED): $(READY) $(wildcard integrations/*/pyproject.toml integrations/*/sdists.txt)
	HEADWATER_PURE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  $(foreach name,$(INTEGRATIONS),--editable "integrations/$(name)[test]")
	@# Source distributions, whose tests are not in the installed packages.
	rm -rf $(VENV)/sdists; mkdir $(VENV)/sdists
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
	  --dest $(VENV)/sdists $(foreach file,$(wildcard integrations/*/sdists.txt),-r $(file))
	set -e; for archive in $(VENV)/sdists/*.tar.gz; do \
	  tar -xzf $$archive -C $(VENV)/sdists; rm $$archive; \
	done
	@touch $@

test-integrations: $(INTEGRATED)  ## Run each integration's tests, and its library's own
	set -e; for name in $(INTEGRATIONS); do \
	  MYPYPATH=protocol:client:server:integrations/$$name/src $(BIN)/mypy \
	    --config-file pyproject.toml integrations/$$name/src integrations/$$name/tests; \
	  (cd integrations/$$name && ../../$(BIN)/pytest -q -n logical --dist worksteal); \
	done

conformance-jetstream: $(READY)  ## Run the tests of the log on three real NATS servers
	HEADWATER_NATS_REPLICAS=3 $(BIN)/pytest -q tests/storage/wal tests/storage/jetstream

# The agent needs LangGraph and its checkpoints, the other examples nothing more.
AGENT := $(VENV)/.agent
$(AGENT): $(READY) integrations/langgraph-checkpoint-headwater/pyproject.toml
	HEADWATER_PURE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable integrations/langgraph-checkpoint-headwater "langgraph>=1.2,<2"
	@touch $@

.PHONY: example-shop example-agent example-queue example-erasure test-examples
example-shop: $(READY)  ## Run the example: an order shop on FastAPI
	$(BIN)/python examples/order_shop/run.py

example-agent: $(AGENT)  ## Run the example: a LangGraph agent that is killed and goes on
	$(BIN)/python examples/langgraph_agent/run.py

example-queue: $(READY)  ## Run the example: a job queue with several workers
	$(BIN)/python examples/job_queue/run.py

example-erasure: $(READY)  ## Run the example: erasing the data of a person
	$(BIN)/python examples/gdpr_erasure/run.py

test-examples: $(AGENT)  ## Run all examples, and compare what they print
	set -e; for run in examples/*/run.py; do folder=$$(dirname $$run); \
	  MYPYPATH=protocol:client:server:$$folder:integrations/langgraph-checkpoint-headwater/src \
	    $(BIN)/mypy --config-file pyproject.toml $$folder/*.py; \
	done
	$(BIN)/pytest -q -n logical --confcutdir examples examples

check: $(READY)  ## Check lint, formatting, types, layers and tidiness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_tidy.py

blocking: $(READY)  ## Generate the blocking client from the asynchronous one
	$(BIN)/python client/generate_blocking.py

format: $(READY)  ## Format the source
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

simulate: $(COMPILED)  ## Simulate SEEDS worlds from seed FROM (default: 1,000 from 1), compiled
	$(BIN)/python -m tests.simulation.run --seeds $${SEEDS:-1000} --first $${FROM:-1}

simulate-cluster: $(READY)  ## Simulate WORLDS worlds (1,000) of three nodes of a cluster
	$(BIN)/python -m tests.cluster.worlds --seeds $${WORLDS:-1000} --first $${FROM:-1}

simulate-nodes: $(READY)  ## Simulate SEEDS worlds of three nodes from seed FROM (default: 1,000 from 1)
	$(BIN)/python -m tests.replication.run --seeds $${SEEDS:-1000} --first $${FROM:-1}

torture-nodes: $(READY)  ## Kill leaders and followers, and promote, ROUNDS times (default: 50)
	HEADWATER_FOLLOWER_ROUNDS=$${ROUNDS:-50} $(BIN)/pytest -q --timeout 7200 tests/replication/test_kills.py

.PHONY: cluster-demo
cluster-demo: $(READY)  ## Load flights into a cluster while nodes and NATS servers are killed
	$(BIN)/python -m tests.cluster.demo

torture-cluster: $(READY)  ## Kill and stop nodes and NATS servers for LENGTH seconds (3,600)
	$(BIN)/python -m tests.cluster.torture --seconds $${LENGTH:-3600}

mutants-cluster: $(READY)  ## Plant defects of a cluster; the worlds of three nodes must detect each
	$(BIN)/python -m tests.cluster.mutants

mutants: $(READY)  ## Plant defects one at a time; the simulation must detect each
	$(BIN)/python -m tests.simulation.mutants

fuzz: $(READY)  ## Send MESSAGES malformed frames (1,000,000), damage FILES files (100,000)
	$(BIN)/python -m tests.fuzz.messages --count $${MESSAGES:-1000000}
	$(BIN)/python -m tests.fuzz.live --count 20000
	$(BIN)/python -m tests.fuzz.intruders --count $${INTRUDERS:-200000}
	$(BIN)/python -m tests.fuzz.files --count $${FILES:-100000}
	$(BIN)/python -m tests.fuzz.store_files --count 1000

torture: $(READY)  ## Simulate WORLDS worlds (10,000), kill KILLS times (500), fail system calls
	$(BIN)/python -m tests.torture.run --worlds $${WORLDS:-10000} --kills $${KILLS:-500}

torture-clients: $(READY)  ## Cancel, interrupt, fork, close and cut off clients, ROUNDS rounds (100) each
	HEADWATER_CLIENT_STRESS=$${ROUNDS:-100} HEADWATER_INTERRUPT=all \
	  $(BIN)/pytest -s --timeout 7200 tests/test_client_stress.py \
	  tests/client/transport/test_interrupting.py

torture-kill: $(READY)  ## Kill the server HEADWATER_KILL_ROUNDS times under load (default 200)
	HEADWATER_KILL_ROUNDS=$${HEADWATER_KILL_ROUNDS:-200} \
	  $(BIN)/pytest -s --timeout 3600 tests/test_kill.py

torture-groups: $(READY)  ## Run 20 consumers over 100,000 events; kill members and the server at random
	HEADWATER_GROUPS=whole $(BIN)/pytest -s --timeout 3600 tests/test_kill_groups.py

# Python clients of other databases. Without them, the comparisons that need them are skipped.
$(RIVALS): pyproject.toml | $(READY)
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,rivals]"; \
	  then touch $@ $(COMPILED); \
	  else echo "cannot install the other databases' clients; comparing without them" >&2; fi

torture-projections: $(READY)  ## Kill a projection 50 times; it must equal one that was not killed
	HEADWATER_PROJECTION_KILLS=50 $(BIN)/pytest -s --timeout 3600 tests/test_projection_kills.py

bench: $(RIVALS) $(COMPILED)  ## Compare with Redis, PostgreSQL, etcd and UmaDB, where installed
	$(BIN)/python -m bench.compare --page docs/benchmarks.md --json bench/results.json

bench-quick: $(RIVALS) $(COMPILED)  ## Compare in about two minutes, without saving the results
	$(BIN)/python -m bench.compare --quick

bench-restart: $(COMPILED)  ## Measure restart time and memory (default: KEYS=1000000)
	$(BIN)/python -m bench.restart --keys $${KEYS:-1000000}

bench-aggregates: $(READY)  ## Measure loading an aggregate of 100,000 events with a snapshot
	$(BIN)/python -m bench.aggregates

bench-paired: $(READY)  ## Compare with the checkout at BASE in alternating runs (ROUNDS=5, ONLY=rows)
	$(BIN)/python -m bench.paired --base $(BASE) --rounds $${ROUNDS:-5} --compile $(if $(ONLY),--only $(ONLY))

bench-archive: $(READY)  ## Compare with and without an archive (ROUNDS=10, ONLY=rows)
	$(BIN)/python -m bench.archive --rounds $${ROUNDS:-10} $(if $(ONLY),--only $(ONLY))

bench-connections: $(READY)  ## Measure threads on one database, tasks on one key, much written at once
	$(BIN)/python -m bench.connections

bench-console: $(READY)  ## Measure the console on a month of flights: start, answers, first paint
	$(BIN)/python -m bench.console

bench-unkind: $(READY)  ## Measure the memory of a server with 10,000 unkind connections
	$(BIN)/python -m bench.unkind

journey: $(READY)  ## Count the calls, functions and modules of each kind of request
	HEADWATER_PURE=1 $(BIN)/python -m bench.journey

fixture: $(READY)  ## Write data directories of the current format, for tests of later versions
	$(BIN)/python -m tests.formats.make

# The site's tools, beside those of `make setup`.
SITE := $(VENV)/.site
$(SITE): $(READY)
	@$(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  > $(VENV)/site.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/site.txt
	@touch $@

.PHONY: llms
llms: $(READY)  ## Write llms.txt, the documentation for language models, from the pages
	$(BIN)/python docs/llms.py

site: $(SITE)  ## Build the documentation site into build/site; warnings and dead links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

wheel: $(READY)  ## Build the compiled wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# What is published: the client's wheel and the source, which are for every platform, and a compiled
# wheel for this Python and processor. auditwheel finds the oldest Linux on which that runs.
wheels: $(READY)  ## Build all wheels and the source archive into dist/, for publishing
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "auditwheel>=6.2"
	rm -rf build/wheels
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist ./client
	$(BIN)/python -m hatchling build -t sdist -d dist
	HEADWATER_PURE=0 $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheels .
	$(BIN)/auditwheel repair --wheel-dir dist build/wheels/*.whl

pins:  ## Write the newest versions of the image's dependencies into deploy/container/pins.txt
	rm -rf build/pins && $(PYTHON) -m venv build/pins
	$(PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  extras = project["optional-dependencies"]; \
	  print(*project["dependencies"], *extras["server"], *extras["console"], sep="\n")' \
	  > build/pins/wanted.txt
	build/pins/bin/pip install --quiet --disable-pip-version-check -r build/pins/wanted.txt
	{ echo "# The versions that the image has. \`make pins\` writes this file."; \
	  build/pins/bin/pip freeze; } > deploy/container/pins.txt

clean:  ## Remove build results and .venv
	find protocol client server -name '*.so' -delete
	rm -f protocol/headwater__mypyc.json
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
