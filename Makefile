# Everything sets itself up: Python 3.11+, Node 20+ and make are all that has to be there.
PYTHON ?= python3
ENGINE ?= vllm
CHAOS_ENGINE := $(if $(filter command line environment,$(origin ENGINE)),$(ENGINE),sim)
INTERRUPTIONS ?= 200
SEED ?= 1
NODES ?= 100
MINUTES ?= 10
STREAMS ?= 1000
KV ?= 0
FUZZ_SECONDS ?= 3
FAULTS_ROUNDS ?= 10
ROUNDS ?= 5
BIN := .venv/bin
# Cheap tests first, so that their failures show first; a new folder of tests needs no word here. These wait for much of
# their time, and run five files at a time; the others start whole engines, fleets and the CDK, and run two at a time.
WHOLE := tests/abuse/ tests/aws_calls/ tests/contract/ tests/e2e/ tests/templates/
CHEAP := $(filter-out tests/__pycache__/ $(WHOLE),$(sort $(wildcard tests/*/)))

# The CDK says at each start that Node 20 is old, and would like to tell its makers that it was started.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 20
export CDK_DISABLE_CLI_TELEMETRY := true
# Else each of hundreds of processes compiles all of the source anew: a node starts in half of the CPU time with bytecode.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup run boot chaos faults soak abuse fuzz simulate engine check test test-all test-stress bench lint synth checkov audit lock lock-engine clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

setup:  ## the environments, from their lock files (every other target does it by itself)
	@$(PYTHON) local/setup.py

run: setup  ## the whole system on this machine, three nodes of it taken away (ENGINE=sim: without vLLM)
	@# The shell outlives Ctrl-C, so that make does not report a stopped run as a failure.
	@trap : INT; $(BIN)/python -m local.demo.__main__ --engine $(ENGINE) $$(test -t 0 && echo --stay) || test $$? -eq 130

chaos: setup  ## nodes taken away at random under load (INTERRUPTIONS=1000 SEED=1 ENGINE=sim; ENGINE=vllm KV=1: contexts move, too)
	@$(BIN)/python -m local.chaos --engine $(CHAOS_ENGINE) --interruptions $(INTERRUPTIONS) --seed $(SEED) --kv-gib $(KV)

faults: setup  ## AWS, disks, clocks, networks and processes fail under a running fleet (FAULTS_ROUNDS=10 SEED=1)
	FAULTS_ROUNDS=$(FAULTS_ROUNDS) FAULTS_SEED=$(SEED) $(BIN)/python -m pytest -rs --durations=8 tests/faults/ tests/unit/adapters/test_engine_process.py

boot: setup  ## instances that really boot on this machine (systemd, cloud-init, the user data); as root (ARGS="--only boot")
	@$(BIN)/python -m local.boot $(ARGS)

simulate: setup  ## a fleet of NODES=1000 on virtual time, SEED=1 (ARGS=quick: in seconds): docs/scale.md
	@$(BIN)/python -m sim --nodes $(NODES) --seed $(SEED) $(ARGS)

lint: setup  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m checks.type_check
	$(BIN)/lint-imports --no-logo

abuse: setup  ## hostile clients and senders at a fleet of real agents: it keeps serving, and frees their memory
	$(BIN)/python -m pytest --durations=8 tests/abuse

engine: setup  ## the local vLLM and its tiny model, made once for all checkouts of this machine (600 MB to download)
	@$(BIN)/python -c "from local.engines import VLLM, prepare_engine; prepare_engine(VLLM, print)"

check: lint  ## before each commit: style, types, layers, the unit tests that the change can affect
	SYNKTI_HYPOTHESIS=quick $(BIN)/python -m checks.affected -q --numprocesses=3 --dist=loadfile

test: lint  ## everything that CI runs: lint, unit, templates, scenarios, the contract of vLLM, whole fleets
	@status=0; export SYNKTI_HYPOTHESIS=quick; \
	$(BIN)/python -m pytest --durations=8 --numprocesses=5 --dist=loadfile $(CHEAP) || status=1; \
	$(MAKE) --no-print-directory engine || status=1; \
	$(BIN)/python -m pytest --durations=8 --numprocesses=2 --dist=loadgroup $(WHOLE) || status=1; \
	exit $$status

test-stress: setup  ## unit tests and scenarios ROUNDS=5 times beside two busy loops a core: nothing depends on speed
	$(BIN)/python -m checks.stress --rounds $(ROUNDS)

test-all: test  ## what `make test` does, what is long and rarely fails, and every generated example
	$(BIN)/python -m pytest --durations=8 --numprocesses=2 --dist=loadgroup -m 'long or hypothesis' tests

fuzz: setup  ## every parser of what comes from outside, FUZZ_SECONDS=3 each (600 nightly): inputs that break one are kept in tests/fuzz/corpus
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest --numprocesses=2 tests/fuzz
	@$(BIN)/python -c 'import atheris' 2>/dev/null && for target in $$($(BIN)/python -m tests.fuzz.coverage_guided); do \
		$(BIN)/python -m tests.fuzz.coverage_guided $$target $(FUZZ_SECONDS) || exit 1; done || true

soak: setup  ## STREAMS=1000 at once for MINUTES=10, an interruption every 20 s: memory, descriptors, loop lag
	@$(BIN)/python -m local.soak --minutes $(MINUTES) --streams $(STREAMS) --seed $(SEED)

bench: setup  ## the cost of the client API, next to the Rust vllm-router (ARGS=--quick: under a minute)
	@$(BIN)/python -m bench.compare $(ARGS)

synth: setup  ## the CloudFormation templates, without any AWS account
	node_modules/.bin/cdk synth --quiet

checkov: setup  ## the templates before checkov, each finding accepted with a reason or mended
	@$(BIN)/python -m checks.checkov

audit: setup  ## every locked package before the databases of known vulnerabilities (pip-audit, npm audit)
	@$(BIN)/python -m checks.audit

lock: setup  ## the lock files anew, after a change of dependencies in pyproject.toml or requirements/*.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev pyproject.toml requirements/agent.in -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform linux --generate-hashes --no-emit-index-url --no-header -c requirements/dev.txt requirements/agent.in -o requirements/agent.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/bootstrap.in -o requirements/bootstrap.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/build.in -o requirements/build.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/bench.in -o requirements/bench.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/checkov.in -o requirements/checkov.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/audit.in -o requirements/audit.txt
	@$(MAKE) --no-print-directory lock-engine

lock-engine: setup  ## the lock file of GPU nodes' engine anew (requirements/engine.in)
	$(BIN)/uv pip compile --quiet --python-version 3.12 --python-platform x86_64-manylinux_2_35 --no-annotate --generate-hashes --no-emit-index-url --no-header requirements/engine.in -o requirements/engine.txt

clean:  ## what was made in the checkout; the cache outside it stays
	rm -rf .venv node_modules cdk.out out build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
