//! Properties that hold for any input bytes. Fuzzing searches for a counterexample; `tests/it/fuzz_regressions.rs`
//! checks them for the cases in `cases/`.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    fmt::Debug,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::LazyLock,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use prost::{Message, bytes::Bytes};
use secrecy::SecretString;
use time::OffsetDateTime;
use tokio::{runtime::Runtime, sync::watch};
use tonic::{Status, body::Body};
use tower::{Layer as _, ServiceExt as _, service_fn};
use turnkey::{
    cli::{
        adopt::renames::Renames,
        import::{journal::Journal, rows},
        keys_file::KeysFile,
    },
    config::service_credentials,
    domain::{
        BcryptHash, CreateFullyProvisioned, ExternalId, Labels, LegacyKeyHash, ListTenants, LogIn, PackageId,
        ParsedSecretKey, PublicKey, SegmentId, SignupForm, Slug, TenantChange, TenantId, TenantIdentifier, TenantSlug,
        UpdateTenant, Violations,
        adoption::{AdoptionContext, OldPackage, OldSegment, OldTenant},
        api_key::{CreateApiKey, KeyCursor, ListApiKeys, RotateApiKey},
        catalog::{
            CatalogIdentifier, Deletion, ListPackages, ListSegments, PackageUpsert, UpsertPackage, UpsertSegment,
        },
        etag::Etag,
        event::{EventPosition, ListEvents, WatchEvents},
        integrity::CheckedTenants,
        owner::{ChangePassword, CreateOwnerToken, PasswordForm, ResetPassword, SetOwner},
        paging::{Cursor, PageCursor, PageTokenScope, SlugCursor},
    },
    grpc::{
        LimitedRequest,
        layers::{MiddlewareLayer, call_context::CallContextMiddleware, transcoding::Transcoding},
        pb, status,
    },
    http::{Browsers, HttpService, parse_message},
    telemetry::trace::TraceId,
};

/// Clients reject larger trailers. The details of a status travel in one, base64-encoded.
const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// In place of each `$` of an input whose errors must not show the input.
const CANARY: &str = "svc_booking_canary";

/// The first byte selects an RPC and the rest is its request, which is parsed or rejected with a status that any client
/// can read.
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
        check_status(violations);
    }
}

fn check_status(violations: Violations) {
    let status = status::from_error(violations.into(), TraceId::INVALID);
    assert_ne!(status.code(), tonic::Code::Internal, "{status:?}");
    assert!(status.details().len().div_ceil(3) * 4 <= MAX_TRAILER_BYTES, "{}", status.details().len());
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

/// A list, a line feed and a page token. The token is a cursor of that list or invalid. No two tokens of a list are the
/// same cursor, and no two cursors of events the same position.
pub fn page_tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (list, token) = text.split_once('\n').unwrap_or(("", text));
    check_page_token::<Cursor>(list, token);
    check_page_token::<SlugCursor>(list, token);
    check_page_token::<KeyCursor>(list, token);
    check_page_token::<EventPosition>(list, token);
    if let Ok(position) = text.parse::<EventPosition>() {
        assert_eq!(position.to_string(), text);
    }
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

/// The head of an HTTP request, an empty line and its body. Whatever they are, the response is no `500`, and an error
/// in JSON can be read.
///
/// The first line of the head is the method and the path, and each further one is a header.
pub fn http_requests(data: &[u8]) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
    let Some(request) = parse_http(data) else { return };
    let (_readiness, readiness) = watch::channel(true);
    let browsers = Browsers::new(Vec::new(), SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
    let calls = MiddlewareLayer(CallContextMiddleware::default()).layer(service_fn(decode_only));
    let service = HttpService::new(calls, browsers, readiness);
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

/// In place of the other layers of gRPC: converts the request, as `admission` does, and does nothing else.
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

/// Each line is a label, `key=value`. Labels are accepted as they are, and their size as JSON is known.
pub fn labels(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let labels = text.split('\n').map(|line| line.split_once('=').unwrap_or((line, "")));
    let labels: BTreeMap<String, String> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    match Labels::parse(labels.clone()) {
        Ok(parsed) => {
            // Postgres writes a space after each colon and comma.
            let spaces = (labels.len() * 2).saturating_sub(1);
            let json = serde_json::to_string(&parsed).expect("labels are JSON").len() + spaces;
            assert!((json..=json + 2).contains(&parsed.json_bytes()), "{json} {}", parsed.json_bytes());
            assert_eq!(parsed.into_map(), labels);
        }
        Err(violations) => {
            assert!(violations.as_slice().iter().all(|one| !one.field.contains(char::is_control)), "{violations:?}");
            check_status(violations);
        }
    }
}

/// An etag that a resource can have is written as it was read. Every other text matches no resource.
pub fn etags(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let etag = Etag::parse(text);
    let matches_none = etag.revision.is_nil() && etag.owner_revision.is_none();
    assert!(matches_none || etag.to_string() == text, "{etag:?}");
}

/// A file of new slugs gives each old slug one of its own, or has errors with their lines.
pub fn renames_csv(data: &[u8]) {
    match Renames::read_from(data) {
        Ok(renames) => {
            let old_slugs = renames.old_slugs();
            let new_slugs: HashSet<&str> =
                old_slugs.iter().filter_map(|old| renames.new_slug(old)).map(TenantSlug::as_str).collect();
            assert_eq!(new_slugs.len(), old_slugs.len());
        }
        Err(error) => assert!(error.to_string().contains("line"), "{error}"),
    }
}

/// A keys file, a NUL character and the journal beside it. A file that is refused keeps every byte. One that is
/// accepted keeps every complete row and is then accepted again without a change.
pub fn row_files(data: &[u8]) {
    let nul = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (keys, journal) = (&data[..nul], data.get(nul + 1..).unwrap_or_default());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("keys.csv");
    let journal_path = directory.path().join("keys.csv.journal");
    fs::write(&path, keys).expect("written");
    fs::write(&journal_path, journal).expect("written");
    let once = open_row_files(&path);
    let (keys_after, journal_after) = (read(&path), read(&journal_path));
    if !once {
        assert_eq!((&keys_after[..], &journal_after[..]), (keys, journal), "a refused file is not changed");
        return;
    }
    for (before, after) in [(keys, &keys_after), (journal, &journal_after)] {
        let complete = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        assert!(after.ends_with(b"\n") && after.starts_with(&before[..complete]));
        let header = after.split(|byte| *byte == b'\n').next().unwrap_or_default();
        assert!(!header.strip_suffix(b"\r").unwrap_or(header).contains(&b'\r'), "the header is a line of its own");
    }
    assert!(open_row_files(&path), "an accepted file is accepted again");
    assert_eq!((read(&path), read(&journal_path)), (keys_after, journal_after));
}

/// Opens both files, as `turnkey import` does, if both are recognized.
fn open_row_files(keys: &Path) -> bool {
    let Ok(keys) = KeysFile::recognize(keys) else { return false };
    let Ok(journal) = Journal::recognize(&keys, "database") else { return false };
    journal.open(&[]).expect("a recognized journal is opened");
    keys.open().expect("a recognized file is opened");
    true
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("the file exists")
}

/// A tokens file is read, or refused with a reason that does not show its content.
pub fn tokens_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace('$', CANARY);
    match service_credentials::parse_file(Path::new("tokens.toml"), text.as_bytes()) {
        Ok(credentials) => drop(credentials.expired(OffsetDateTime::UNIX_EPOCH)),
        Err(error) => assert!(!error.to_string().contains(CANARY), "{error}"),
    }
}

/// The texts of a tenant of the old database with a segment and two packages, a NUL character after each. The tenant
/// comes over whole and with the same key and password, or has problems that do not show its values.
pub fn old_tenants(data: &[u8]) {
    let text = String::from_utf8_lossy(data).replace('$', CANARY);
    // A password hash has that character, so here it is written `!`.
    let mut texts = text.split('\0').map(|text| text.replace('!', "$"));
    let mut next = || texts.next().unwrap_or_default();
    let time = Some(OffsetDateTime::UNIX_EPOCH);
    let old = OldTenant {
        password_hash: Some(next()).filter(|hash| !hash.is_empty()),
        api_key_public: next(),
        api_key_secret: next(),
        email: Some(next()).filter(|email| !email.is_empty()),
        slug: next(),
        name: next(),
        commission_percent: next(),
        branding: Some(next()),
        id: "tenant".to_owned(),
        email_verified: true,
        is_active: true,
        is_test: true,
        created_at: time,
        updated_at: time,
        segments: vec![OldSegment {
            id: "segment".to_owned(),
            slug: next(),
            name: next(),
            hero_title: next(),
            description: Some(next()),
            sort_order: 0,
            active: true,
            created_at: time,
            updated_at: time,
        }],
        packages: ["segment", "other"]
            .map(|segment_id| OldPackage {
                id: format!("package in {segment_id}"),
                segment_id: Some(segment_id.to_owned()),
                slug: next(),
                name: next(),
                description: Some(next()),
                base_price: 1,
                booking_type: next(),
                grouping_order: None,
                active: true,
                created_at: time,
                updated_at: time,
            })
            .into(),
    };
    check_adoption(old);
}

fn check_adoption(old: OldTenant) {
    let mut ids = (1..).map(uuid::Uuid::from_u128);
    let mut new_id = |_time| ids.next().expect("endless");
    let (hash, secret, has_email) = (old.password_hash.clone(), old.api_key_secret.clone(), old.email.is_some());
    let context = AdoptionContext { new_slug: None, now: OffsetDateTime::UNIX_EPOCH, new_id: &mut new_id };
    match old.adopt(context).adoption {
        Ok(adoption) => {
            assert_eq!(adoption.tenant.key.secret_hash, format!("sha256:{secret}"));
            let adopted_hash = adoption.tenant.owner.and_then(|owner| owner.password_hash);
            assert_eq!(adopted_hash.as_ref().map(BcryptHash::as_str), hash.as_deref().filter(|_| has_email));
            if let Some(hash) = adopted_hash.as_ref().filter(|hash| hash.as_str().contains("$04$")) {
                assert!(bcrypt::verify("tulips", hash.as_str()).is_ok(), "passwords can be compared with {hash:?}");
            }
            let segments: HashSet<SegmentId> = adoption.segments.iter().map(|segment| segment.id).collect();
            assert!(adoption.packages.iter().all(|package| segments.contains(&package.segment_id)));
            let slugs: HashSet<&str> = adoption.packages.iter().map(|package| package.slug.as_str()).collect();
            assert_eq!((adoption.packages.len(), slugs.len()), (2, 2));
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| !problem.to_string().contains(CANARY)), "{problems:?}");
        }
    }
}
