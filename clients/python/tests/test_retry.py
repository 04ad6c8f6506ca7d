"""Which calls and which errors are repeated."""

import unittest
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import turnkey
from turnkey.repeat import is_repeatable, with_request_ids
from turnkey.retry import CallInterceptor, Limits
from turnkey.v1 import package_catalog_pb2 as catalog
from turnkey.v1 import tenant_provisioning_pb2 as provisioning


class RepeatTest(unittest.TestCase):
    def test_calls_are_repeatable_by_the_contract(self):
        for method, request, expected in [
            ("TenantProvisioning/GetTenant", provisioning.GetTenantRequest(), True),
            ("TenantProvisioning/SuspendTenant", provisioning.SuspendTenantRequest(), True),
            ("TenantProvisioning/VerifyPassword", provisioning.VerifyPasswordRequest(), True),
            ("TenantProvisioning/ChangePassword", provisioning.ChangePasswordRequest(), False),
            ("TenantProvisioning/PurgeTenant", provisioning.PurgeTenantRequest(), False),
            ("TenantProvisioning/RepairTenant", provisioning.RepairTenantRequest(), False),
            ("TenantProvisioning/RotateApiKey", provisioning.RotateApiKeyRequest(), True),
            ("TenantProvisioning/Unknown", provisioning.GetTenantRequest(), False),
            (
                "TenantProvisioning/BatchCreateFullyProvisioned",
                provisioning.BatchCreateFullyProvisionedRequest(requests=[{}, {}]),
                True,
            ),
            ("PackageCatalog/UpsertPackage", catalog.UpsertPackageRequest(slug="gold"), True),
            ("PackageCatalog/UpsertPackage", catalog.UpsertPackageRequest(slug=""), False),
            ("PackageCatalog/UpsertSegment", catalog.UpsertSegmentRequest(segment_id="1"), True),
            ("PackageCatalog/UpsertPackage", catalog.UpsertPackageRequest(segment_id="1"), False),
            (
                "PackageCatalog/BatchUpsertPackages",
                catalog.BatchUpsertPackagesRequest(packages=[{"slug": "gold"}, {}]),
                False,
            ),
            ("PackageCatalog/DeletePackage", catalog.DeletePackageRequest(), False),
        ]:
            with self.subTest(method=method, request=request):
                self.assertEqual(is_repeatable(f"/turnkey.v1.{method}", with_request_ids(request)), expected)

    def test_request_ids_are_added_to_a_copy(self):
        own = "5f0f0d0e-5a52-4ba5-8cb7-7a3ff2d24ef1"
        request = provisioning.BatchCreateFullyProvisionedRequest(requests=[{"request_id": own}, {}])
        first, second = with_request_ids(request).requests
        self.assertEqual(first.request_id, own)
        self.assertEqual(uuid.UUID(second.request_id).version, 4)
        self.assertFalse(request.requests[1].HasField("request_id"))


class Failure(grpc.RpcError, grpc.Call):
    """A call that failed, as the library returns it to an interceptor."""

    def __init__(self, code, details=(), pushback=None):
        status = status_pb2.Status(code=code.value[0])
        for detail in details:
            status.details.add().Pack(detail)
        trailers = [("grpc-status-details-bin", status.SerializeToString())]
        self._code = code
        self._trailers = trailers + ([("grpc-retry-pushback-ms", pushback)] if pushback else [])

    def code(self):
        return self._code

    def details(self):
        return ""

    def trailing_metadata(self):
        return self._trailers

    def exception(self):
        return self

    initial_metadata = is_active = time_remaining = cancel = add_callback = None


class Success:
    def exception(self):
        return None


def attempts_until(failure, timeout_s=60):
    """Calls GetTenant with a server that fails twice, and returns how often it was called."""
    attempts = 0

    def continuation(details, _request):
        nonlocal attempts
        attempts += 1
        assert 0 < details.timeout <= 1
        return Success() if attempts == 3 else failure

    details = type("Details", (), {"method": "/turnkey.v1.TenantProvisioning/GetTenant", "timeout": timeout_s})()
    interceptor = CallInterceptor(None, Limits(timeout_s, 1))
    try:
        interceptor.intercept_unary_unary(continuation, details, provisioning.GetTenantRequest())
    except turnkey.Error:
        pass
    return attempts


class RetryTest(unittest.TestCase):
    def test_only_transient_errors_are_repeated(self):
        def reason(text):
            return [error_details_pb2.ErrorInfo(domain="turnkey", reason=text)]

        for failure, expected in [
            (Failure(grpc.StatusCode.UNAVAILABLE), 3),
            (Failure(grpc.StatusCode.DEADLINE_EXCEEDED), 3),
            (Failure(grpc.StatusCode.UNKNOWN), 3),
            (Failure(grpc.StatusCode.ABORTED, reason("CONFLICT")), 3),
            (Failure(grpc.StatusCode.ABORTED, reason("ETAG_MISMATCH")), 1),
            (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, reason("OVERLOADED")), 3),
            (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, reason("TOO_MANY_ATTEMPTS")), 1),
            (Failure(grpc.StatusCode.INTERNAL), 1),
        ]:
            with self.subTest(code=failure.code()):
                self.assertEqual(attempts_until(failure), expected)

    def test_the_delay_of_the_server_is_a_minimum(self):
        hour = [error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3600))]
        self.assertEqual(attempts_until(Failure(grpc.StatusCode.UNAVAILABLE, hour)), 1)
        self.assertEqual(attempts_until(Failure(grpc.StatusCode.UNAVAILABLE, pushback="3600000")), 1)
        self.assertEqual(attempts_until(Failure(grpc.StatusCode.UNAVAILABLE, pushback="-1")), 1)


if __name__ == "__main__":
    unittest.main()
