"""Calls Turnkey, the service that provisions the tenants of a booking platform.

The messages are in `turnkey.v1`, such as `turnkey.v1.tenant_provisioning_pb2`.
"""

from turnkey.client import Client
from turnkey.errors import Error, Reason, Violation

__all__ = ["Client", "Error", "Reason", "Violation"]
