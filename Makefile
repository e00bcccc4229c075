# `make help` lists the targets. `make tools` gets the tools that are needed beside Rust, and `make foreign-tools` the
# programs of the foreign tests (Debian 12 only).

CARGO ?= cargo

# Not empty if cargo-nextest is installed. Without it `cargo test` runs the tests.
NEXTEST = $(shell $(CARGO) nextest --version 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help tools foreign-tools dev check test-one test compose-test scale-test scale-test-100k skew-test sim sim-trace
.PHONY: foreign soak chaos alerts-test bench durability chart metrics-doc fmt lint deny doc clean-tools

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## Get nats-server into .tools, unless PATH has one
	@tools/get-nats-server

foreign-tools: ## Get the programs of the foreign tests: Debian packages, and the others into .tools
	@tools/get-foreign

dev: tools ## Run a whole cluster with events on this machine (ARGS="--speed 100")
	$(CARGO) run --release --bin tickwire -- dev $(ARGS)

check: lint ## The inner loop: format, lints, and unit tests with few random cases
	PROPTEST_CASES=16 TICKWIRE_SIM_RUNS=50 $(CARGO) $(if $(NEXTEST),nextest run,test) --workspace --locked --lib --bins

test-one: tools ## Run the tests whose names contain T (make test-one T=confirmations)
	$(CARGO) $(if $(NEXTEST),nextest run -E 'test($(T))',test --lib --bins --tests $(T)) --workspace --locked

# The tools come over the network while the lints compute. Tests wait more than they compute, so there are more of them
# than processors.
test: ## Check and test everything, as CI does
	@$(MAKE) --no-print-directory tools foreign-tools & getting=$$!; \
	$(MAKE) --no-print-directory lint; linted=$$?; wait $$getting && exit $$linted
	$(CARGO) $(if $(NEXTEST),nextest run --test-threads $$(( $$(nproc) * 3 / 2 )),test --lib --bins --tests) \
	--workspace --locked
	$(CARGO) test --workspace --doc --locked
	$(CARGO) test --workspace --bench '*' --locked
	$(MAKE) deny doc

compose-test: tools foreign-tools ## Test docker-compose.yml in containers, with the last binary (TICKWIRE_CONTAINERS=full)
	CARGO="$(CARGO)" tools/compose-test

scale-test: tools foreign-tools ## Scale and restart a cluster in network namespaces, under 1,000 clients (as root)
	CARGO="$(CARGO)" tools/scale-test nothing_is_lost 360

scale-test-100k: tools foreign-tools ## Measure six gateways with 100,000 sockets in network namespaces (as root)
	CARGO="$(CARGO)" tools/scale-test six_gateways 480

skew-test: tools ## Upgrade a cluster of PREVIOUS (the last release) node by node under load, and take two nodes back
	CARGO="$(CARGO)" PREVIOUS="$(PREVIOUS)" tools/skew-test

sim: ## Run the simulators RUNS times (40000), from SEED
	TICKWIRE_SIM_RUNS=$${RUNS:-40000} PROPTEST_RNG_SEED=$${SEED:-$$(date +%s)} \
	$(CARGO) --config profile.dev.package.tickwire-node.opt-level=2 test --workspace --locked --lib -- simulator::

sim-trace: ## Print a trace of a simulator plan that has failed (PLAN, the file that the failure names)
	TICKWIRE_SIM_PLAN=$(abspath $(PLAN)) \
	$(CARGO) test --workspace --locked --lib -- --ignored --nocapture simulator::trace_of_a_plan

foreign: tools foreign-tools ## Run all third-party suites, clients and faults, and print their results
	@rm -rf target/foreign
	TICKWIRE_FOREIGN=full $(CARGO) nextest run --workspace --locked --test e2e -E 'test(/^foreign::/)'; \
	status=$$?; sort target/foreign/*.txt; exit $$status

soak: tools ## Connect new users for ten minutes, and check the memory of each node (TICKWIRE_SOAK_SECONDS)
	TICKWIRE_SOAK_SECONDS=$${TICKWIRE_SOAK_SECONDS:-600} \
	$(CARGO) test --workspace --locked --test e2e -- --nocapture foreign::newcomers

chaos: tools ## Kill nodes in random order for a while (TICKWIRE_CHAOS_SECONDS, TICKWIRE_CHAOS_SEED)
	TICKWIRE_CHAOS_SECONDS=$${TICKWIRE_CHAOS_SECONDS:-60} \
	TICKWIRE_CHAOS_SEED=$${TICKWIRE_CHAOS_SEED:-$$(date +%s)} \
	$(CARGO) test --workspace --locked --test e2e -- --nocapture nothing_is_lost_under_random_faults

bench: ## Measure single parts (cargo bench); docs/benchmarks.md measures the whole
	$(CARGO) bench --workspace --bench '*' --locked

durability: tools ## Measure what NATS loses with its power, and what syncing costs (as root; ARGS="speed --runs 3")
	tools/measure-durability $(ARGS)

chart: foreign-tools ## Bring what is derived from the Helm chart and for it up to date (deploy/helm)
	.tools/foreign/venv/bin/python tools/chart.py write

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny: ## Check the dependencies by deny.toml, with the advisories if the network has their database
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "deny: cargo-deny is not installed, so advisories are not checked (a test checks the rest)"; \
	elif $(CARGO) deny fetch; then set -x; $(CARGO) deny check; \
	else set -x; $(CARGO) deny check licenses bans sources; fi

doc: ## Build the documentation of the code, without warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace --locked

alerts-test: foreign-tools tools ## Cause the conditions of the alerts, and run the queries of the dashboards, in full
	TICKWIRE_FOREIGN=full $(CARGO) nextest run --workspace --locked --test e2e -E 'test(/^foreign::monitoring/)'

metrics-doc: ## Write the tables of docs/metrics.md from the declarations of the metrics
	TICKWIRE_WRITE_DOCS=1 $(CARGO) test --locked --lib -p tickwire-node -p tickwire-router-node -p tickwire-gateway -- \
	the_metrics_are_those_of_the_document --test-threads 1

clean-tools: ## Remove .tools
	rm -rf .tools
