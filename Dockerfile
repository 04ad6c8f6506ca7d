# syntax=docker/dockerfile:1
# The service alone: without the private Postgres, without a shell, as a user who owns nothing.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Registry and target are kept between builds, and not in the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features --bin turnkey \
    && cp target/release/turnkey /turnkey

# glibc, libgcc and the roots of certificate authorities; user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="turnkey" \
      org.opencontainers.image.description="Creates tenants of a booking platform move-in ready, or not at all" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /turnkey /usr/local/bin/turnkey
# Reached from outside the container, so it starts only with tokens, or with TURNKEY_ALLOW_UNAUTHENTICATED=true.
# Health has an address of its own, which stays in plaintext where TLS is served.
ENV TURNKEY_LISTEN=0.0.0.0:50051 \
    TURNKEY_HEALTH_LISTEN=0.0.0.0:50052
EXPOSE 50051 50052
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=2s --start-period=30s \
    CMD ["/usr/local/bin/turnkey", "healthcheck", "--listen", "127.0.0.1:50052"]
ENTRYPOINT ["/usr/local/bin/turnkey"]
CMD ["serve"]
