//! Properties that hold for any input bytes. Fuzzing searches for a counterexample; `tests/it/fuzz_regressions.rs` checks
//! them for the cases in `cases/`.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt::Debug,
    net::{Ipv4Addr, SocketAddr},
    sync::LazyLock,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use prost::{Message, bytes::Bytes};
use secrecy::SecretString;
use tokio::{runtime::Runtime, sync::watch};
use tonic::{Status, body::Body};
use tower::{ServiceExt as _, service_fn};
use turnkey::{
    cli::import::rows,
    domain::{
        CreateFullyProvisioned, ExternalId, LegacyKeyHash, ListTenants, LogIn, PackageId, ParsedSecretKey, PublicKey,
        SegmentId, SignupForm, Slug, TenantChange, TenantId, TenantIdentifier, UpdateTenant, Violations,
        api_key::{CreateApiKey, KeyCursor, ListApiKeys, RotateApiKey},
        catalog::{
            CatalogIdentifier, Deletion, ListPackages, ListSegments, PackageUpsert, UpsertPackage, UpsertSegment,
        },
        event::{ListEvents, WatchEvents},
        integrity::CheckedTenants,
        owner::{ChangePassword, CreateOwnerToken, PasswordForm, ResetPassword, SetOwner},
        paging::{Cursor, PageCursor, PageTokenScope, SlugCursor},
    },
    grpc::{LimitedRequest, layers::transcoding::Transcoding, pb, status},
    http::{Browsers, HttpService, parse_message},
    telemetry::trace::TraceId,
};

/// Clients reject larger trailers. The details of a status travel in one, base64-encoded.
const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// The first byte selects an RPC and the rest is its request, which is parsed or rejected with a status that any client can
/// read.
pub fn requests(data: &[u8]) {
    let Some((rpc, message)) = data.split_first() else { return };
    match rpc % 35 {
        0 => parse::<pb::CreateFullyProvisionedRequest, CreateFullyProvisioned>(message),
        1 => parse::<pb::CreateFromSignupRequest, SignupForm>(message),
        2 => parse::<pb::BatchCreateFullyProvisionedRequest, Vec<Result<CreateFullyProvisioned, Violations>>>(message),
        3 => parse::<pb::GetTenantRequest, TenantIdentifier>(message),
        4 => parse_limited::<pb::ListTenantsRequest, ListTenants>(message),
        5 => parse::<pb::UpdateTenantRequest, (TenantId, UpdateTenant)>(message),
        6 => parse::<pb::SuspendTenantRequest, TenantId>(message),
        7 => parse::<pb::ReactivateTenantRequest, TenantId>(message),
        8 => parse::<pb::DeleteTenantRequest, (TenantId, TenantChange)>(message),
        9 => parse::<pb::UndeleteTenantRequest, TenantId>(message),
        10 => parse::<pb::RotateApiKeyRequest, RotateApiKey>(message),
        11 => parse::<pb::ListApiKeysRequest, (TenantId, ListApiKeys)>(message),
        12 => parse::<pb::RevokeApiKeyRequest, (TenantId, PublicKey)>(message),
        13 => parse::<pb::VerifyApiKeyRequest, SecretString>(message),
        14 => parse::<pb::VerifyPasswordRequest, LogIn>(message),
        15 => parse_limited::<pb::CheckIntegrityRequest, CheckedTenants>(message),
        16 => parse::<pb::RepairTenantRequest, TenantId>(message),
        17 => parse::<pb::UpsertPackageRequest, (TenantId, UpsertPackage)>(message),
        18 => parse::<pb::BatchUpsertPackagesRequest, (TenantId, Vec<PackageUpsert>)>(message),
        19 => parse::<pb::GetPackageRequest, (TenantId, CatalogIdentifier<PackageId>)>(message),
        20 => parse::<pb::ListPackagesRequest, (TenantId, ListPackages)>(message),
        21 => parse::<pb::DeletePackageRequest, (TenantId, Deletion<PackageId>)>(message),
        22 => parse::<pb::UpsertSegmentRequest, (TenantId, UpsertSegment)>(message),
        23 => parse::<pb::GetSegmentRequest, (TenantId, CatalogIdentifier<SegmentId>)>(message),
        24 => parse::<pb::ListSegmentsRequest, (TenantId, ListSegments)>(message),
        25 => parse::<pb::DeleteSegmentRequest, (TenantId, Deletion<SegmentId>)>(message),
        26 => parse::<pb::ChangePasswordRequest, PasswordForm<ChangePassword>>(message),
        27 => parse::<pb::CreateOwnerTokenRequest, CreateOwnerToken>(message),
        28 => parse::<pb::ResetPasswordRequest, ResetPassword>(message),
        29 => parse::<pb::VerifyEmailRequest, SecretString>(message),
        30 => parse::<pb::SetOwnerRequest, PasswordForm<SetOwner>>(message),
        31 => parse_limited::<pb::ListEventsRequest, ListEvents>(message),
        32 => parse_limited::<pb::WatchEventsRequest, WatchEvents>(message),
        33 => parse::<pb::PurgeTenantRequest, (TenantId, Slug)>(message),
        _ => parse::<pb::CreateApiKeyRequest, CreateApiKey>(message),
    }
}

fn parse<Request, Input>(bytes: &[u8])
where
    Request: Message + Default + Debug,
    Input: TryFrom<Request, Error = Violations>,
{
    parse_with(bytes, Input::try_from);
}

fn parse_limited<Request, Input>(bytes: &[u8])
where
    Request: Message + Default + Debug,
    Input: TryFrom<LimitedRequest<Request>, Error = Violations>,
{
    parse_with(bytes, |message| Input::try_from(LimitedRequest { message, limit: None }));
}

fn parse_with<Request, Input>(bytes: &[u8], parse: impl FnOnce(Request) -> Result<Input, Violations>)
where
    Request: Message + Default + Debug,
{
    let Ok(request) = Request::decode(bytes) else { return };
    let _debug = format!("{request:?}");
    if let Err(violations) = parse(request) {
        let status = status::from_error(violations.into(), TraceId::INVALID);
        assert_ne!(status.code(), tonic::Code::Internal, "{status:?}");
        assert!(status.details().len().div_ceil(3) * 4 <= MAX_TRAILER_BYTES, "{}", status.details().len());
    }
}

/// A text is accepted as a key exactly if it has the parts of one.
pub fn api_keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(public) = PublicKey::parse(text) {
        assert_eq!(public.as_str(), text);
        assert!(text.starts_with("pk_") && text.ends_with(public.key_id()));
    }
    let is_legacy = LegacyKeyHash::of_secret_key(&SecretString::from(text)).is_some();
    if let Some(key) = ParsedSecretKey::parse(&SecretString::from(text)) {
        assert!(!is_legacy, "a text has one of the two formats");
        let public = text.replacen("sk_", "pk_", 1);
        let (public, _random) = public.rsplit_once('_').expect("a key has parts");
        assert_eq!(public, key.public_key);
        assert_eq!(PublicKey::parse(public).expect("both halves have the same format").key_id(), key.key_id);
    }
}

/// A list, a line feed and a page token. The token is a cursor of that list or invalid. No two tokens of a list are the same
/// cursor.
pub fn page_tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (list, token) = text.split_once('\n').unwrap_or(("", text));
    check_page_token::<Cursor>(list, token);
    check_page_token::<SlugCursor>(list, token);
    check_page_token::<KeyCursor>(list, token);
    if let Some(bytes) = data.first_chunk::<24>() {
        let (order, id) = bytes.split_at(8);
        let order = i64::from_be_bytes(order.try_into().expect("8 bytes"));
        let cursor = Cursor { order, id: uuid::Uuid::from_slice(id).expect("16 bytes") };
        let scope = PageTokenScope::new(list);
        assert_eq!(scope.decode(&scope.encode(&cursor)).expect("a token of this list"), Some(cursor));
    }
}

fn check_page_token<C: PageCursor>(list: &str, token: &str) {
    let scope = PageTokenScope::new(list);
    if let Ok(Some(cursor)) = scope.decode::<C>(token) {
        assert_eq!(scope.encode(&cursor), token);
        assert!(
            PageTokenScope::new(format!("{list}.")).decode::<C>(token).is_err(),
            "a token of one list is invalid for another"
        );
    }
}

/// A file of tenants is read to its end: every row is valid or has an error with its line.
pub fn tenants_csv(data: &[u8]) {
    let Ok(rows) = rows::read_from(data) else { return };
    let slugs: HashSet<&str> = rows.valid.iter().map(|row| row.slug.as_str()).collect();
    assert_eq!(slugs.len(), rows.valid.len(), "each slug is imported once");
    assert!(rows.errors.iter().all(|error| error.contains("line")), "{:?}", rows.errors);
}

/// The head of an HTTP request, an empty line and its body. Whatever they are, the response is no `500`, and an error in
/// JSON can be read.
///
/// The first line of the head is the method and the path, and each further one is a header.
pub fn http_requests(data: &[u8]) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
    let Some(request) = parse_http(data) else { return };
    let (_readiness, readiness) = watch::channel(true);
    let browsers = Browsers::new(Vec::new(), SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    let service = HttpService::new(service_fn(decode_only), browsers, readiness);
    let (head, body) = RUNTIME.block_on(async {
        let response = service.oneshot(request).await.unwrap_or_else(|never| match never {});
        let (head, body) = response.into_parts();
        (head, body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default())
    });
    assert_ne!(head.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", String::from_utf8_lossy(&body));
    if head.headers.get("content-type").is_some_and(|content_type| content_type == "application/json") {
        serde_json::from_slice::<serde_json::Value>(&body).expect("the body is JSON");
    }
}

fn parse_http(data: &[u8]) -> Option<Request<Body>> {
    let text = String::from_utf8_lossy(data);
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        request = request.header(name, value.trim());
    }
    request.body(Body::new(http_body_util::Full::new(Bytes::from(body.to_owned())))).ok()
}

/// In place of the layers of gRPC: converts the request, as `admission` does, and does nothing else.
async fn decode_only(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let transcoding = request.extensions().get::<Transcoding>().cloned();
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let status = match transcoding.map(|Transcoding(transcoder)| transcoder.decode_request(body)) {
        Some(Err(error)) => status::from_error(error, TraceId::INVALID),
        _ => Status::unimplemented("the request was converted"),
    };
    Ok(status.into_http())
}

/// A message of an agent becomes the request of an RPC, or is rejected.
pub fn agent_messages(data: &[u8]) {
    let tenant_id = TenantId::from_uuid(uuid::Uuid::nil());
    match parse_message(data, tenant_id) {
        // In each of them the tenant is the first field, a text of 36 bytes.
        Ok(Some(request)) => assert!(request.starts_with(format!("\n${tenant_id}").as_bytes()), "{request:?}"),
        Ok(None) => {}
        Err(error) => {
            let status = status::from_error(error, TraceId::INVALID);
            assert_ne!(status.code(), tonic::Code::Internal, "{status:?}");
        }
    }
}

/// A text that is accepted as an external id is stored as it is.
pub fn external_ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = ExternalId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert!((1..=255).contains(&text.chars().count()) && !text.chars().any(char::is_control));
    }
}
