# Everything a newcomer needs is `make run` and `make test`; everything a change needs is `make check`.

.PHONY: run test check soak bench coverage format prepare

# Serves on 127.0.0.1:50051, on DATABASE_URL or on a private Postgres in ./.turnkey/.
run:
	@[ -n "$$DATABASE_URL" ] || scripts/install-postgres
	cargo run --locked -- serve

# All tests, on a throw-away Postgres of their own.
test:
	@scripts/install-postgres
	cargo test --locked --workspace

check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	cargo clippy --locked --no-default-features --lib --bins -- --deny warnings
	@$(MAKE) --no-print-directory test
	@scripts/install-pgbouncer
	PATH="$$PATH:/usr/sbin" cargo test --locked --test it -- --ignored pgbouncer
	scripts/buf lint
	scripts/check-alerts
	scripts/check-kubernetes
	scripts/with-database scripts/check-sql
	scripts/with-database scripts/run-examples

# For minutes what the tests do in seconds: faults under load; writes docs/reliability.md.
soak:
	@scripts/install-postgres
	cargo test --locked --test it -- --ignored soak:: --nocapture

# The service beside its limits, in one run of some minutes; writes docs/benchmarks.md.
bench:
	@scripts/install-postgres
	cargo bench --locked --bench bench

# Lines that no test runs through, by cargo-llvm-cov. Counters live in files, so programs that the tests kill count too.
coverage:
	@scripts/install-postgres
	RUSTFLAGS="-C llvm-args=-runtime-counter-relocation" LLVM_PROFILE_FILE_NAME="turnkey-%p-%c.profraw" \
		cargo llvm-cov --locked --workspace --html --ignore-filename-regex '/(tests|benches)/'

format:
	cargo fmt --all
	scripts/buf format --write

# Makes .sqlx anew; to be run after a change to a query or to the schema.
prepare:
	@scripts/install-postgres
	scripts/with-database scripts/check-sql --write
