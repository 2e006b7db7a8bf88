# Everything that is done with this repository. Each target installs what it needs (scripts/setup.sh).

.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)
.PHONY: help demo test lint bench corpus corpus-live fuzz consistency properties leaks regress deny advisories

help:                 ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 13

# DURATION=15s ends it by itself, with a summary and an exit code.
demo:                 ## a primary, two replicas and the proxy, live in this terminal (DURATION=15s, CONFIG=file)
	@sh scripts/setup.sh build postgres
	@cargo build --locked
	@cargo run --locked --quiet -- demo $(if $(CONFIG),--config $(CONFIG)) $(if $(DURATION),--duration $(DURATION))

# What is generated is the same at each run, so that what was green stays so; make properties has others.
test:                 ## all tests: unit, in-process, and against real clusters and drivers
	@sh scripts/setup.sh test
	PROPTEST_RNG_SEED=$(or $(PROPTEST_RNG_SEED),2026) cargo test --locked

# CASES=number for each property.
CASES ?= 1000
properties:           ## every property over other inputs than make test has (about 20 minutes)
	@sh scripts/setup.sh test
	PROPTEST_CASES=$(CASES) cargo test --locked --lib --test inprocess
	PROPTEST_CASES=$(CASES) cargo test --locked --test integration generated

lint:                 ## formatting and clippy, warnings are errors
	@sh scripts/setup.sh lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# BENCH=--quick for a look; BENCH=--write writes docs/BENCHMARKS.md.
bench:                ## Causeway, a bare forwarder, PgBouncer, HAProxy and Pgpool-II side by side (12 minutes)
	@sh scripts/setup.sh bench
	cargo build --locked --release --bin causeway
	cargo build --locked --release --manifest-path benches/forwarder/Cargo.toml --target-dir "$(TARGET)"
	@python3 scripts/bench $(BENCH)

# CELLS="kill pause/off" runs the cells whose names begin so; make test has a short form.
consistency:          ## never older than your own writes, under every fault (takes about an hour)
	@sh scripts/setup.sh build postgres
	CELLS="$(CELLS)" cargo test --locked --test integration consistency::nobody_sees_the_past -- --nocapture

# LEAKS=clients,transactions,servers
LEAKS ?= 32,100000,4
leaks:                ## 32 clients with sessions of their own on 4 servers a pool: nothing may be mixed (about 25 minutes)
	@sh scripts/setup.sh build postgres
	LEAKS=$(LEAKS) cargo test --locked --test integration nobody_sees_what_another_has -- --nocapture

# REGRESS="--keep DIR" keeps the outputs; names of tests run only these.
regress:              ## PostgreSQL's own regression suite through Causeway, compared with a direct run (about 6 minutes)
	@sh scripts/setup.sh build postgres regress
	@cargo build --locked
	@python3 integration/regress/run.py --causeway "$(TARGET)/debug/causeway" --suite "$(TARGET)/regress" $(REGRESS)

corpus:               ## how often the router is right over a corpus (CORPUS=directory)
	@cargo build --locked
	@python3 scripts/corpus.py --causeway "$(TARGET)/debug/causeway" "$(CORPUS)"

corpus-live:          ## the same corpus before a real primary and replicas: rows, and what the net catches
	@sh scripts/setup.sh test
	CAUSEWAY_CORPUS="$(abspath $(CORPUS))" cargo test --locked --test integration corpus -- --nocapture

# FUZZ=3600 for an hour in all; TARGETS="classify" for some of fuzz/fuzz_targets; SEED=1 for the same inputs
# each time.
FUZZ := 60
fuzz:                 ## hostile input for so many seconds (FUZZ=seconds, TARGETS=names, SEED=number)
	@sh scripts/setup.sh fuzz
	@SEED=$(SEED) sh scripts/fuzz.sh $(FUZZ) $(TARGETS)

# What only a commit can change, so that what was green stays so; part of CI.
deny:                 ## dependencies: licences, sources, what may not be among them
	@sh scripts/setup.sh deny
	@sh scripts/deny.sh bans licenses sources

# Not part of CI: the list of vulnerabilities changes by itself, and lies where CI need not reach.
advisories:           ## dependencies: known vulnerabilities, yanked versions (asks the RustSec database)
	@sh scripts/setup.sh deny
	@sh scripts/deny.sh advisories
