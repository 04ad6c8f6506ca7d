# syntax=docker/dockerfile:1
# The service alone, without the embedded Postgres and without a shell. It runs as a user that owns no files.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# `turnkey --version` shows it: the context has no repository.
ARG TURNKEY_COMMIT=unknown
# The cache mounts keep the registry and the target directory between builds and out of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features --features mcp --bin turnkey \
    && cp target/release/turnkey /turnkey

# Contains glibc, libgcc and the root certificates; runs as user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="turnkey" \
      org.opencontainers.image.description="Provisions the tenants of a booking platform atomically" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /turnkey /usr/local/bin/turnkey
# This address is not a loopback address, so the server starts only with credentials configured or with
# TURNKEY_ALLOW_UNAUTHENTICATED=true. Health has a separate address, which stays in plaintext when TLS is configured.
ENV TURNKEY_LISTEN=0.0.0.0:50051 \
    TURNKEY_HEALTH_LISTEN=0.0.0.0:50052
EXPOSE 50051 50052
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=2s --start-period=30s \
    CMD ["/usr/local/bin/turnkey", "healthcheck", "--listen", "127.0.0.1:50052"]
ENTRYPOINT ["/usr/local/bin/turnkey"]
CMD ["serve"]
