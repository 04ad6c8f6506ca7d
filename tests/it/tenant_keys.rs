//! What a tenant can do with its own key besides its catalog: read the tenant, list its keys and replace the key.

use time::Duration;
use tonic::{Code, Status};
use turnkey::grpc::pb::{
    ApiKey, ApiKeyScope, CreateApiKeyRequest, GetTenantRequest, ListApiKeysRequest, RotateApiKeyRequest,
    RotateApiKeyResponse, Tenant, Verdict, get_tenant_request::Identifier,
    tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use crate::support::{
    connect::{Transport, over_connect, over_grpc},
    fixture::{Fixture, NewTenant, channel, with_http},
    requests::{REQUEST_ID, another_key, rotation, rotation_of, with_bearer},
    responses::{reason, violations},
    tokens::Tokens,
};

/// A server that needs credentials, and another on the same database that needs none.
struct Servers {
    open: Fixture,
    closed: Fixture,
}

/// A client of the server that needs credentials, with this one.
struct Client {
    provisioning: TenantProvisioningClient<Transport>,
    secret_key: String,
}

impl Servers {
    async fn start() -> Self {
        let open = Fixture::start().await;
        let closed = Fixture::start_with(open.database.clone(), with_http(Tokens::new().settings())).await;
        Self { open, closed }
    }

    /// Clients by gRPC and by HTTP.
    async fn clients(&self, secret_key: &str) -> [Client; 2] {
        let grpc = channel(&self.closed.server.address.to_string()).await;
        [over_grpc(grpc), over_connect(self.closed.http())].map(|transport| Client {
            provisioning: TenantProvisioningClient::new(transport),
            secret_key: secret_key.to_owned(),
        })
    }

    async fn client(&self, secret_key: &str) -> Client {
        let [grpc, _http] = self.clients(secret_key).await;
        grpc
    }
}

impl Client {
    async fn get(&self, identifier: Identifier) -> Result<Tenant, Status> {
        let request = with_bearer(GetTenantRequest { identifier: Some(identifier) }, Some(&self.secret_key));
        Ok(self.provisioning.clone().get_tenant(request).await?.into_inner().tenant.unwrap())
    }

    async fn list(&self, tenant_id: &str) -> Result<Vec<ApiKey>, Status> {
        let request = ListApiKeysRequest { tenant_id: tenant_id.to_owned(), ..ListApiKeysRequest::default() };
        let request = with_bearer(request, Some(&self.secret_key));
        Ok(self.provisioning.clone().list_api_keys(request).await?.into_inner().api_keys)
    }

    async fn rotate(&self, request: RotateApiKeyRequest) -> Result<RotateApiKeyResponse, Status> {
        let request = with_bearer(request, Some(&self.secret_key));
        Ok(self.provisioning.clone().rotate_api_key(request).await?.into_inner())
    }
}

fn assert_denied(error: &Status) {
    assert_eq!((error.code(), reason(error).as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"), "{error:?}");
}

/// Another key of the tenant, with a name and an expiry.
async fn named_key(servers: &Servers, tenant: &NewTenant) -> (ApiKey, String) {
    let request = CreateApiKeyRequest {
        name: Some("Storefront".to_owned()),
        expires_at: Some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 }),
        ..another_key(&tenant.id)
    };
    let created = servers.open.create_key(request).await.unwrap();
    (created.api_key.unwrap(), created.secret_key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_reads_its_own_tenant_by_id_and_lists_its_keys() {
    let servers = Servers::start().await;
    let tenant = servers.open.tenant("bella-weddings").await;
    let other = servers.open.tenant("omers-cafe").await;
    for client in servers.clients(&tenant.secret_key).await {
        assert_eq!(client.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().slug, "bella-weddings");
        assert_eq!(client.list(&tenant.id).await.unwrap()[0].public_key, tenant.public_key);
        for foreign in [other.id.clone(), Uuid::new_v4().to_string()] {
            assert_denied(&client.get(Identifier::TenantId(foreign.clone())).await.unwrap_err());
            assert_denied(&client.list(&foreign).await.unwrap_err());
        }
        for slug in ["bella-weddings", "omers-cafe", "no-such-tenant"] {
            assert_denied(&client.get(Identifier::Slug(slug.to_owned())).await.unwrap_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_replaces_itself_and_keeps_its_name_scope_and_expiry() {
    let servers = Servers::start().await;
    let tenant = servers.open.tenant("bella-weddings").await;
    for is_named in [false, true] {
        let (key, secret_key) = named_key(&servers, &tenant).await;
        let client = servers.client(&secret_key).await;
        let public_key = is_named.then(|| key.public_key.clone());
        let request = RotateApiKeyRequest { public_key, ..rotation(&tenant.id, None) };
        let new = client.rotate(request).await.unwrap();
        let new_key = new.api_key.unwrap();
        assert_eq!((&new_key.name, new_key.expires_at), (&key.name, key.expires_at));
        assert_eq!(new_key.scope(), ApiKeyScope::Catalog);
        assert_eq!(servers.open.verify(&new.secret_key).await.verdict(), Verdict::Valid);
        // The replaced key still reads, but cannot be replaced again.
        assert_eq!(client.list(&tenant.id).await.unwrap()[0], new_key);
        let error = client.rotate(rotation(&tenant.id, None)).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "API_KEY_ENDED"));
    }
    assert!(servers.open.keys(&tenant.id).await.last().unwrap().expires_at.is_none(), "the first key stays as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_cannot_replace_another_key_or_one_of_another_tenant() {
    let servers = Servers::start().await;
    let (tenant, other) = (servers.open.tenant("bella-weddings").await, servers.open.tenant("omers-cafe").await);
    let (own_other, _secret_key) = named_key(&servers, &tenant).await;
    let before = servers.open.keys(&tenant.id).await;
    for client in servers.clients(&tenant.secret_key).await {
        for request in [
            rotation_of(&tenant.id, &own_other.public_key),
            rotation_of(&tenant.id, "pk_live_bella_0123456789abcdef"),
            rotation_of(&tenant.id, &other.public_key),
            rotation(&other.id, None),
            rotation_of(&other.id, &other.public_key),
            rotation_of(&other.id, &tenant.public_key),
            rotation(&Uuid::new_v4().to_string(), None),
            rotation(&other.id, Some(Duration::ZERO)),
        ] {
            assert_denied(&client.rotate(request).await.unwrap_err());
        }
    }
    assert_eq!(servers.open.keys(&tenant.id).await, before);
    assert_eq!(servers.open.keys(&other.id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_replaces_itself_stays_valid_for_at_least_five_minutes() {
    let servers = Servers::start().await;
    let tenant = servers.open.tenant("bella-weddings").await;
    let client = servers.client(&tenant.secret_key).await;
    for short in [Duration::ZERO, Duration::minutes(5) - Duration::nanoseconds(1)] {
        let error = client.rotate(rotation(&tenant.id, Some(short))).await.unwrap_err();
        assert_eq!(violations(&error), [("overlap".to_owned(), "OUT_OF_RANGE".to_owned())], "{short}");
    }
    let request = RotateApiKeyRequest {
        request_id: Some(REQUEST_ID.to_owned()),
        ..rotation(&tenant.id, Some(Duration::minutes(5)))
    };
    let first = client.rotate(request.clone()).await.unwrap();
    // The same with the key named.
    for public_key in [None, Some(tenant.public_key.clone())] {
        let repeated = client.rotate(RotateApiKeyRequest { public_key, ..request.clone() }).await.unwrap();
        assert!(repeated.replayed);
        assert_eq!((repeated.api_key, repeated.secret_key), (first.api_key.clone(), first.secret_key.clone()));
    }
    servers.closed.advance_clock(Duration::minutes(5));
    let error = client.rotate(request).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_ids_of_a_tenants_keys_are_those_of_the_tenant() {
    let servers = Servers::start().await;
    let (tenant, other) = (servers.open.tenant("bella-weddings").await, servers.open.tenant("omers-cafe").await);
    let (_key, second) = named_key(&servers, &tenant).await;
    let rotate = async |tenant: &NewTenant, secret_key: &str| {
        let request_id = Some(REQUEST_ID.to_owned());
        let request = RotateApiKeyRequest { request_id, ..rotation(&tenant.id, None) };
        servers.client(secret_key).await.rotate(request).await
    };
    assert!(!rotate(&tenant, &tenant.secret_key).await.unwrap().replayed);
    // Another key of the tenant would replace another key: not the same request.
    let error = rotate(&tenant, &second).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "REQUEST_ID_REUSED"));
    assert!(!rotate(&other, &other.secret_key).await.unwrap().replayed);
    let by_operator = RotateApiKeyRequest { request_id: Some(REQUEST_ID.to_owned()), ..rotation(&tenant.id, None) };
    assert!(!servers.open.try_rotate(by_operator).await.unwrap().replayed);
}
