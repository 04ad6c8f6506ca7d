"""Calls a real server, which scripts/check-clients starts."""

import os
import unittest
from pathlib import Path

import grpc

import turnkey
from turnkey import Reason
from turnkey.v1 import package_catalog_pb2 as catalog
from turnkey.v1 import tenant_provisioning_pb2 as provisioning


def environment(name):
    """Returns a variable that scripts/check-clients sets, or skips the test."""
    if name not in os.environ:
        raise unittest.SkipTest(f"{name} is not set: run scripts/check-clients")
    return os.environ[name]


class ClientTest(unittest.TestCase):
    def client(self, url="TURNKEY_GRPC_URL", **options):
        options.setdefault("token", environment("TURNKEY_TOKEN"))
        return self.enterContext(turnkey.Client(environment(url), **options))

    def create(self, client, slug):
        request = provisioning.CreateFullyProvisionedRequest(slug=slug, name="From Python")
        return client.provisioning.CreateFullyProvisioned(request)

    def test_a_create_returns_the_tenant_and_its_secret(self):
        response = self.create(self.client(), "python-created")
        self.assertFalse(response.replayed)
        self.assertTrue(response.secret_key.startswith("sk_live_python_"))
        self.assertEqual(len(response.packages), 3)

    def test_a_create_whose_response_is_lost_is_repeated_and_returns_the_secret(self):
        response = self.create(self.client("TURNKEY_CUT_GRPC_URL_1"), "python-lost")
        self.assertTrue(response.replayed)
        request = provisioning.VerifyApiKeyRequest(secret_key=response.secret_key)
        verified = self.client().provisioning.VerifyApiKey(request)
        self.assertEqual(verified.verdict, provisioning.VERDICT_VALID)

    def test_an_upsert_that_names_nothing_is_not_repeated(self):
        tenant_id = self.create(self.client(), "python-not-repeated").tenant.id
        request = catalog.UpsertPackageRequest(tenant_id=tenant_id, name="Gold", base_price=1)
        with self.assertRaises(turnkey.Error) as failure:
            self.client("TURNKEY_CUT_GRPC_URL_2").catalog.UpsertPackage(request)
        self.assertEqual(failure.exception.code(), grpc.StatusCode.UNAVAILABLE)
        packages = self.client().catalog.ListPackages(catalog.ListPackagesRequest(tenant_id=tenant_id)).packages
        self.assertEqual(len(packages), 4)

    def test_a_slug_that_exists_has_a_reason(self):
        client = self.client()
        self.create(client, "python-taken")
        with self.assertRaises(turnkey.Error) as failure:
            self.create(client, "python-taken")
        self.assertEqual(failure.exception.reason, Reason.SLUG_TAKEN)
        self.assertEqual(failure.exception.code(), grpc.StatusCode.ALREADY_EXISTS)

    def test_violations_are_a_list(self):
        with self.assertRaises(turnkey.Error) as failure:
            self.client().provisioning.CreateFullyProvisioned(provisioning.CreateFullyProvisionedRequest(slug="x"))
        violations = [(violation.field, violation.reason) for violation in failure.exception.violations]
        self.assertEqual(violations, [("slug", "TOO_SHORT"), ("name", "MISSING_FIELD")])

    def test_pages_are_listed(self):
        client = self.client()
        tenant_id = self.create(client, "python-pages").tenant.id
        request, slugs = catalog.ListPackagesRequest(tenant_id=tenant_id, page_size=2), []
        while True:
            page = client.catalog.ListPackages(request)
            slugs += [package.slug for package in page.packages]
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        self.assertEqual(slugs, ["basic-package", "standard-package", "premium-package"])

    def test_a_tenant_key_opens_its_own_catalog_only(self):
        own, other = (self.create(self.client(), slug) for slug in ("python-own", "python-other"))
        client = self.client(token=own.secret_key)
        client.catalog.ListSegments(catalog.ListSegmentsRequest(tenant_id=own.tenant.id))
        with self.assertRaises(turnkey.Error) as failure:
            client.catalog.ListSegments(catalog.ListSegmentsRequest(tenant_id=other.tenant.id))
        self.assertEqual(failure.exception.reason, Reason.PERMISSION_DENIED)

    def test_a_stream_fails_with_a_reason(self):
        with self.assertRaises(turnkey.Error) as failure:
            list(self.client().provisioning.CheckIntegrity(provisioning.CheckIntegrityRequest(tenant_id="x")))
        self.assertEqual(failure.exception.reason, Reason.INVALID_REQUEST)

    def test_a_call_is_encrypted(self):
        root_certificates = Path(environment("TURNKEY_TLS_CA")).read_bytes()
        self.create(self.client("TURNKEY_TLS_URL", root_certificates=root_certificates), "python-encrypted")


if __name__ == "__main__":
    unittest.main()
