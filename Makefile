# `make run` starts the service, `make test` runs the tests, and `make check` runs every check that CI runs.

.PHONY: run test check check-all soak bench fuzz coverage format prepare reference

# Serves gRPC on 127.0.0.1:50051 and HTTP on 127.0.0.1:8080, on DATABASE_URL or on an embedded Postgres in ./.turnkey/.
run:
	@[ -n "$$DATABASE_URL" ] || scripts/install-postgres
	TURNKEY_HTTP_LISTEN="$${TURNKEY_HTTP_LISTEN-127.0.0.1:8080}" cargo run --locked -- serve

# Runs all tests on a temporary Postgres.
test:
	@scripts/install-postgres
	cargo test --locked --workspace

check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	cargo clippy --locked --no-default-features --lib --bins -- --deny warnings
	scripts/check-dependencies
	scripts/check-workflows
	@$(MAKE) --no-print-directory test
	scripts/test-postgres-versions --database 18
	scripts/test-pgbouncer
	scripts/buf lint
	scripts/check-breaking
	scripts/check-alerts
	cargo test --locked --test it -- --ignored prometheus::
	scripts/check-image
	scripts/check-kubernetes
	scripts/with-database scripts/check-sql
	scripts/with-database scripts/run-examples
	scripts/with-database scripts/check-http-clients
	scripts/with-database scripts/check-clients

# Also runs the matrices that take several minutes: all tests on Postgres 15, 16, 17 and 18, and every attack.
check-all: check
	scripts/test-postgres-versions
	cargo build --locked --release
	cargo test --locked --test it -- --ignored --nocapture attacks::

# Injects faults under load for several minutes. Writes docs/reliability.md.
soak:
	@scripts/install-postgres
	cargo test --locked --test it -- --ignored soak:: --nocapture

# Measures the service and its baselines in one run of several minutes. Writes docs/benchmarks.md.
bench:
	@scripts/install-postgres
	cargo bench --locked --bench bench

# Searches ten minutes for each target of fuzz/ for an input that violates a property.
fuzz:
	scripts/fuzz

# Reports the lines that no test covers, with cargo-llvm-cov. The counters are kept in files, so that processes which
# the tests kill are counted too. The file of a process that was killed while it started is damaged, and left out.
coverage:
	@scripts/install-postgres
	RUSTFLAGS="-C llvm-args=-runtime-counter-relocation" LLVM_PROFILE_FILE_NAME="turnkey-%p-%c.profraw" \
		cargo llvm-cov --failure-mode all --locked --workspace --html --ignore-filename-regex '/(tests|benches)/'

format:
	cargo fmt --all
	scripts/buf format --write

# Regenerates .sqlx. Run it after a change to a query or to the schema.
prepare:
	@scripts/install-postgres
	scripts/with-database scripts/check-sql --write

# Writes docs/openapi.json. Run it after a change to the API.
reference:
	cargo test --locked --test it -- --ignored openapi::write
