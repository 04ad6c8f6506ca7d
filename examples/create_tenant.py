"""Creates a tenant exactly once and receives its secret key, even if responses are lost:

    pip install -r examples/requirements.txt
    python examples/create_tenant.py 127.0.0.1:50051 bella-weddings "Bella Weddings"

All attempts use the same request_id. Each attempt has a deadline, and the backoff between attempts grows exponentially
with jitter. A real caller stores the request_id before the first attempt (for example, next to the order that the
tenant belongs to), so that it can retry even after its own crash. The request_id is a secret, like the key. This example
reads it from REQUEST_ID, or generates one.
"""

import os
import random
import sys
import time
import uuid
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# Compiles the protos at start, to keep the example short. A service would generate the code at build time
# (python -m grpc_tools.protoc).
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "proto"))
messages, services = grpc.protos_and_services("turnkey/v1/tenant_provisioning.proto")

MAX_ATTEMPTS = 10
DEADLINE_S = 5
INITIAL_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5

# With a request_id, a call can be retried even if its outcome is unknown.
RETRYABLE_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
}


def retry_delay_s(error):
    """Returns the delay that the server asks for in RetryInfo, or None."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        retry_info = error_details_pb2.RetryInfo()
        if detail.Unpack(retry_info):
            return retry_info.retry_delay.ToTimedelta().total_seconds()
    return None


def is_retryable(code, delay_s):
    """RESOURCE_EXHAUSTED without a delay means that the message is too large, which no retry changes."""
    return code in RETRYABLE_CODES or (code == grpc.StatusCode.RESOURCE_EXHAUSTED and delay_s is not None)


def create(stub, request):
    backoff_s = INITIAL_BACKOFF_S
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return stub.CreateFullyProvisioned(request, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            delay_s = retry_delay_s(error)
            if attempt == MAX_ATTEMPTS or not is_retryable(error.code(), delay_s):
                raise
            print(f"attempt {attempt}: {error.code().name}", file=sys.stderr)
        # Jitter keeps clients from retrying in step. The server's delay is a minimum.
        time.sleep(max(backoff_s * random.uniform(0.5, 1.5), delay_s or 0))
        backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: create_tenant.py ADDRESS SLUG NAME")
    address, slug, name = sys.argv[1:]
    request = messages.CreateFullyProvisionedRequest(
        slug=slug,
        name=name,
        request_id=os.environ.get("REQUEST_ID") or str(uuid.uuid4()),
    )
    # Replicas that do not serve get no calls, and gRPC itself retries reads.
    service_config = (ROOT / "clients/service-config.json").read_text()
    # By default, gRPC's own reconnect backoff grows up to two minutes. The backoff above is enough.
    options = [("grpc.service_config", service_config), ("grpc.max_reconnect_backoff_ms", 1000)]
    with grpc.insecure_channel(address, options=options) as channel:
        response = create(services.TenantProvisioningStub(channel), request)
    print(f"tenant {response.tenant.slug} id {response.tenant.id} replayed {str(response.replayed).lower()}")
    # A real caller stores response.secret_key in its secret store now: after 24 hours, no call returns it again.
    print(f"secret received {str(bool(response.secret_key)).lower()}")


if __name__ == "__main__":
    main()
