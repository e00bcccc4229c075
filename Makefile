# What can be done here; `make help` lists it. What is needed beside Rust comes by `make tools`, and what the foreign
# tests need by `make foreign-tools`, on Debian 12 alone.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help tools foreign-tools dev check test-one test sim sim-trace foreign soak chaos bench fmt lint doc clean-tools

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: ## Get nats-server into .tools, unless PATH has one
	@tools/get-nats-server

foreign-tools: ## Get what the foreign tests use: Debian's packages, and the others into .tools
	@tools/get-foreign

dev: tools ## Run a whole cluster with events on this machine (ARGS="--speed 100")
	$(CARGO) run --release --bin tickwire -- dev $(ARGS)

check: lint ## The inner loop: format, lints, and the tests of single parts with few random cases
	PROPTEST_CASES=16 TICKWIRE_SIM_RUNS=50 $(CARGO) nextest run --workspace --locked --lib --bins

test-one: tools ## Run the tests whose names contain T (make test-one T=confirmations)
	$(CARGO) nextest run --workspace --locked -E 'test($(T))'

# Tests wait more than they compute.
test: tools foreign-tools lint ## Check and test everything, as CI does
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --workspace --locked --test-threads $$(( $$(nproc) * 3 / 2 )); \
	else \
		set -x; $(CARGO) test --workspace --lib --bins --tests --locked; \
	fi
	$(CARGO) test --workspace --doc --locked
	$(CARGO) test --workspace --bench '*' --locked
	$(MAKE) doc

sim: ## Run the simulator as often as one likes, from a seed (RUNS, SEED)
	TICKWIRE_SIM_RUNS=$${RUNS:-10000} PROPTEST_RNG_SEED=$${SEED:-$$(date +%s)} \
	$(CARGO) test --workspace --locked --lib -- simulator::

sim-trace: ## Show what happens in a plan of the simulator that has failed (PLAN, the file that the failure names)
	TICKWIRE_SIM_PLAN=$(abspath $(PLAN)) \
	$(CARGO) test --workspace --locked --lib -- --ignored --nocapture simulator::what_happens_in_a_plan

foreign: tools foreign-tools ## Run other people's suites, clients and faults in full, and print what each found
	@rm -rf target/foreign
	TICKWIRE_FOREIGN=full $(CARGO) nextest run --workspace --locked --test e2e -E 'test(/^foreign::/)'; \
	status=$$?; sort target/foreign/*.txt; exit $$status

soak: tools ## Let new users come for ten minutes, and see what each node holds (TICKWIRE_SOAK_SECONDS)
	TICKWIRE_SOAK_SECONDS=$${TICKWIRE_SOAK_SECONDS:-600} \
	$(CARGO) test --workspace --locked --test e2e -- --nocapture foreign::newcomers

chaos: tools ## Let nodes die in any order for a while (TICKWIRE_CHAOS_SECONDS, TICKWIRE_CHAOS_SEED)
	TICKWIRE_CHAOS_SECONDS=$${TICKWIRE_CHAOS_SECONDS:-60} \
	TICKWIRE_CHAOS_SEED=$${TICKWIRE_CHAOS_SEED:-$$(date +%s)} \
	$(CARGO) test --workspace --locked --test e2e -- --nocapture nothing_is_lost_whatever_happens

bench: ## Measure the parts of the engine (cargo bench); see docs/benchmarks.md for the whole
	$(CARGO) bench --workspace --bench '*' --locked

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc: ## Build the documentation of the code, without warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace --locked

clean-tools: ## Remove .tools
	rm -rf .tools
