"""Processes each event exactly once, however often it or the server is restarted:

    pip install -r examples/requirements.txt
    python examples/watch_events.py 127.0.0.1:50051 events.sqlite

What an event changes and the event's id are stored in one transaction, here of SQLite. After a restart, the stream
continues after the id that was stored last. The token of a service with the role `auditor` is read from TURNKEY_TOKEN.
With COUNT, it ends when that many events have been processed.
"""

import os
import random
import sqlite3
import sys
import time
from pathlib import Path

import grpc

# Compiles the protos at start, to keep the example short. A service would generate the code at build time
# (python -m grpc_tools.protoc).
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "proto"))
messages, services = grpc.protos_and_services("turnkey/v1/tenant_provisioning.proto")

MAX_BACKOFF_S = 5
# A server that is gone without closing its connections is noticed after this time.
KEEPALIVE_MS = 20_000


def open_database(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS position (cursor TEXT NOT NULL)")
    database.execute("CREATE TABLE IF NOT EXISTS changes (tenant_id TEXT NOT NULL, type TEXT NOT NULL)")
    return database


def stored_cursor(database):
    """Returns the id of the last event that was processed. Without one, the stream begins now."""
    row = database.execute("SELECT cursor FROM position").fetchone()
    return row[0] if row else ""


def process(database, cursor, event=None):
    """Stores what the event changes together with the position after it."""
    with database:
        if event:
            database.execute("INSERT INTO changes VALUES (?, ?)", (event.tenant_id, event.type))
        database.execute("DELETE FROM position")
        database.execute("INSERT INTO position VALUES (?)", (cursor,))


def is_done(database):
    (processed,) = database.execute("SELECT count(*) FROM changes").fetchone()
    return processed >= float(os.environ.get("COUNT", "inf"))


def watch(stub, database):
    """Processes events until the stream ends."""
    token = os.environ.get("TURNKEY_TOKEN")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    request = messages.WatchEventsRequest(cursor=stored_cursor(database))
    for response in stub.WatchEvents(request, metadata=metadata):
        if response.HasField("event"):
            process(database, response.event.id, response.event)
            print(f"{response.event.type} {response.event.tenant_id}", flush=True)
            if is_done(database):
                return
        else:
            # Also without events: a position that is too old expires.
            process(database, response.checkpoint.cursor)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: watch_events.py ADDRESS DATABASE")
    address, path = sys.argv[1:]
    database, backoff_s = open_database(path), 0.1
    options = [("grpc.max_reconnect_backoff_ms", 1000), ("grpc.keepalive_time_ms", KEEPALIVE_MS)]
    with grpc.insecure_channel(address, options=options) as channel:
        stub = services.TenantProvisioningStub(channel)
        while not is_done(database):
            before = stored_cursor(database)
            try:
                watch(stub, database)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                    # A real consumer lists all tenants here, and continues with the cursor of ListTenants.
                    sys.exit("the events after the stored position were deleted, or the database was restored")
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                print(f"the stream ended: {error.code().name}", file=sys.stderr)
            # A stream that made progress is continued at once.
            backoff_s = 0.1 if stored_cursor(database) != before else min(backoff_s * 2, MAX_BACKOFF_S)
            time.sleep(backoff_s * random.uniform(0.5, 1.5))


if __name__ == "__main__":
    main()
