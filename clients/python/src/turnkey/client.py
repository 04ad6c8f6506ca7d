"""The client: one channel with the stubs of both services."""

from urllib.parse import urlsplit

import grpc

from turnkey.retry import FIRST_BACKOFF_S, CallInterceptor, Limits
from turnkey.v1 import package_catalog_pb2_grpc, tenant_provisioning_pb2_grpc

_OPTIONS = [
    # By default, gRPC's own delay between connections grows up to two minutes. The backoff of the retries is enough.
    ("grpc.initial_reconnect_backoff_ms", int(FIRST_BACKOFF_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
]


class Client:
    """Calls a server such as `https://turnkey.example.com:50051`. With `http`, the connection is plaintext.

    `provisioning` and `catalog` are the stubs of the two services. A call is repeated if it failed and a repeat cannot
    change something twice; it raises `Error`. A `timeout` argument of a call bounds all its attempts together.

    The client connects at the first call and again after each failure, and is safe to use from several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        root_certificates: bytes | None = None,
        certificate: bytes | None = None,
        private_key: bytes | None = None,
        timeout_s: float = 30,
        attempt_timeout_s: float = 5,
    ) -> None:
        """Creates a client.

        `token` is a service token or a tenant's own secret key. `root_certificates` (PEM) replace those of the system.
        `certificate` and `private_key` (PEM) authenticate the caller instead of a token.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"server URL {url!r}: need https://HOST:PORT or http://HOST:PORT")
        if parts.scheme == "https":
            target = parts.netloc if parts.port else f"{parts.netloc}:443"
            credentials = grpc.ssl_channel_credentials(root_certificates, private_key, certificate)
            self._channel = grpc.secure_channel(target, credentials, _OPTIONS)
        else:
            target = parts.netloc if parts.port else f"{parts.netloc}:80"
            self._channel = grpc.insecure_channel(target, _OPTIONS)
        interceptor = CallInterceptor(token, Limits(timeout_s, attempt_timeout_s))
        channel = grpc.intercept_channel(self._channel, interceptor)
        self.provisioning = tenant_provisioning_pb2_grpc.TenantProvisioningStub(channel)
        self.catalog = package_catalog_pb2_grpc.PackageCatalogStub(channel)

    def close(self) -> None:
        """Closes the connections. Calls in flight fail."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
