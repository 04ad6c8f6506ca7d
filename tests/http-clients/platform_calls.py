"""Makes the two calls of the platform with requests. Usage: python platform_calls.py URL"""

import sys
import uuid

import requests

url = sys.argv[1]
session = requests.Session()


def post(path, body, **headers):
    return session.post(url + path, json=body, headers=headers, timeout=10)


tenant = {"slug": "from-requests", "name": "From requests", "commission": 12}
key = str(uuid.uuid4())
first = post("/api/v1/admin/tenants", tenant, **{"Idempotency-Key": key})
assert first.status_code == 201, first.text
assert first.json()["tenant"]["commissionPercent"] == 12
replay = post("/api/v1/admin/tenants", tenant, **{"Idempotency-Key": key})
assert (replay.status_code, replay.headers["Idempotent-Replayed"]) == (201, "true")
assert replay.json() == first.json()
taken = post("/api/v1/admin/tenants", tenant)
assert (taken.status_code, taken.json()["error"]) == (409, "SLUG_TAKEN")

form = {"email": "requests@example.com", "password": "tulips under a lamp", "businessName": "Signed Up"}
signed_up = post("/v1/auth/signup", form)
assert signed_up.status_code == 201, signed_up.text
assert signed_up.json()["slug"] == "signed-up"
incomplete = post("/v1/auth/signup", {"email": "x"})
assert incomplete.status_code == 400
assert {field["field"] for field in incomplete.json()["fields"]} == {"businessName", "email", "password"}

# The client is still sending when the server refuses.
body = {"data": b" " * 5_000_000, "headers": {"Content-Type": "application/json"}}
large = session.post(url + "/v1/auth/signup", timeout=10, **body)
assert large.status_code == 413, large.text
print("from-requests: created, replayed and refused")
