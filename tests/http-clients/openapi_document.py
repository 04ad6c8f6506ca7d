"""Makes calls by docs/openapi.json and compares the responses with it. Usage: python openapi_document.py URL"""

import json
import sys

import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

url = sys.argv[1]
with open("docs/openapi.json", encoding="utf-8") as file:
    document = json.load(file)
OpenAPIV31SpecValidator(document).validate()
paths = {operation["operationId"]: (path, method, operation) for path, methods in document["paths"].items()
         for method, operation in methods.items()}


def check(content, value):
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def call(operation_id, expected_status, request=None):
    path, method, operation = paths[operation_id]
    if expected_status < 400 and request is not None:
        check(operation["requestBody"]["content"], request)
    response = requests.request(method, url + path, json=request, timeout=10)
    assert response.status_code == expected_status, (operation_id, response.text)
    described = operation["responses"].get(str(expected_status)) or operation["responses"]["default"]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
    check(described["content"], response.json())
    return response.json()


tenant = call("CreateFullyProvisioned", 200, {"slug": "from-openapi", "name": "From OpenAPI"})["tenant"]
call("CreateFullyProvisioned", 409, {"slug": "from-openapi", "name": "From OpenAPI"})
call("GetTenant", 200, {"tenantId": tenant["id"]})
call("GetTenant", 400, {"tenant": "x"})
call("ListTenants", 200, {"pageSize": 10})
call("UpsertPackage", 200, {"tenantId": tenant["id"], "slug": "gold", "name": "Gold", "basePrice": 250000})
call("ListPackages", 200, {"tenantId": tenant["id"]})
call("ListSegments", 200, {"tenantId": tenant["id"]})
call("ListApiKeys", 200, {"tenantId": tenant["id"]})
call("RotateApiKey", 200, {"tenantId": tenant["id"], "overlap": "3600s"})
call("VerifyApiKey", 200, {"secretKey": "x"})
call("createTenant", 201, {"slug": "from-openapi-form", "name": "From OpenAPI", "commission": 12.5})
call("createTenant", 400, {"slug": "-"})
form = {"email": "openapi@example.com", "password": "tulips under a lamp", "businessName": "From OpenAPI"}
call("signUp", 201, form)
call("isAlive", 200)
print("from-openapi: the document is valid, and so are the responses")
