"""Creates a tenant so that it is there exactly once and its secret is not lost, whatever happens on the way:

    pip install -r examples/requirements.txt
    python examples/create_tenant.py 127.0.0.1:50051 bella-weddings "Bella Weddings"

One request_id for all attempts, a deadline for each, a growing and uneven pause between them. In a real caller the id is
kept (next to the order it is for, say) before the first attempt, so that even a crash of the caller costs nothing; it is
a secret for 24 hours. Here it can be given as REQUEST_ID.
"""

import os
import random
import sys
import time
import uuid
from pathlib import Path

import grpc

# Compiled on the spot, which is fine for an example; a service would do it once (python -m grpc_tools.protoc).
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "proto"))
messages, services = grpc.protos_and_services("turnkey/v1/tenant_provisioning.proto")

ATTEMPTS = 10
DEADLINE_S = 5
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5

# With a request id, a call whose fate is unknown can be repeated too.
MAY_PASS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
}


def create(stub, wish):
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return stub.CreateFullyProvisioned(wish, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            if attempt == ATTEMPTS or error.code() not in MAY_PASS:
                raise
            print(f"attempt {attempt}: {error.code().name}", file=sys.stderr)
        time.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def main():
    if len(sys.argv) != 4:
        sys.exit("say ADDRESS SLUG NAME")
    address, slug, name = sys.argv[1:]
    wish = messages.CreateFullyProvisionedRequest(
        slug=slug,
        name=name,
        request_id=os.environ.get("REQUEST_ID") or str(uuid.uuid4()),
    )
    # gRPC would wait ever longer before it tries to connect again; the pauses above are enough.
    options = [("grpc.max_reconnect_backoff_ms", 1000)]
    with grpc.insecure_channel(address, options=options) as channel:
        made = create(services.TenantProvisioningStub(channel), wish)
    print(f"tenant {made.tenant.slug} id {made.tenant.id} replayed {str(made.replayed).lower()}")
    # Store made.secret_key now, where secrets are kept. It is not shown again.
    print(f"secret received {str(bool(made.secret_key)).lower()}")


if __name__ == "__main__":
    main()
