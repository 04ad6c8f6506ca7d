# syntax=docker/dockerfile:1
# The service alone, without the embedded Postgres and without a shell. It runs as a user that owns no files.
#
# The base images have tags and no digests, so that each build contains their security updates. To pin a build, look up
# the digest of each with `docker buildx imagetools inspect IMAGE`, write `FROM IMAGE@sha256:…`, and renew it
# regularly.

FROM rust:1.95-trixie AS build
WORKDIR /src
COPY . .
# `turnkey --version` shows it: the context has no repository.
ARG TURNKEY_COMMIT=unknown
ARG TARGETPLATFORM
# The cache mounts keep the registry and the target directory between builds and out of the image. Each platform has its
# own, because builds of several platforms at once would overwrite each other's files.
RUN --mount=type=cache,id=turnkey-registry-$TARGETPLATFORM,target=/usr/local/cargo/registry \
    --mount=type=cache,id=turnkey-target-$TARGETPLATFORM,target=/src/target \
    cargo build --release --locked --no-default-features --features mcp --bin turnkey \
    && cp target/release/turnkey /turnkey

# Contains glibc of the same Debian release as above, libgcc and the root certificates; runs as user 65532.
FROM gcr.io/distroless/cc-debian13:nonroot
ARG TURNKEY_COMMIT=unknown
# A release adds the labels that depend on where it is built: source, url and created.
LABEL org.opencontainers.image.title="turnkey" \
      org.opencontainers.image.description="Provisions the tenants of a booking platform atomically" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$TURNKEY_COMMIT" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian13:nonroot"
COPY LICENSE /usr/share/doc/turnkey/LICENSE
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
