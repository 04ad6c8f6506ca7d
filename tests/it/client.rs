//! The crate `turnkey-client`: retries with request ids, typed errors and streams, against the real server.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpListener;
use turnkey::config::ServerSettings;
use turnkey_client::{
    Client, Code, Connector, Reason, RetryPolicy, ViolationReason,
    pb::{
        BatchCreateFullyProvisionedRequest, CheckIntegrityRequest, CreateFullyProvisionedRequest, GetTenantRequest,
        UpsertPackageRequest, UpsertSegmentRequest, batch_create_fully_provisioned_result::Result as BatchResult,
        get_tenant_request::Identifier,
    },
};

use crate::support::{
    faults::{PROVISIONING_SQL, start_ready_behind_proxy},
    fixture::{Fixture, ONE_TENANT, settings},
    proxy::Cut,
    tokens::Tokens,
};

fn connector(fixture: &Fixture) -> Connector {
    Connector::new(&format!("http://{}", fixture.server.address)).unwrap()
}

async fn connect(fixture: &Fixture) -> Client {
    connector(fixture).connect().await.unwrap()
}

fn create(slug: &str) -> CreateFullyProvisionedRequest {
    let (slug, name) = (slug.to_owned(), slug.to_owned());
    CreateFullyProvisionedRequest { slug, name, ..CreateFullyProvisionedRequest::default() }
}

#[tokio::test]
async fn a_creation_whose_response_is_lost_is_repeated_with_the_same_request_id() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let client = connect(&fixture).await;
    for (slug, cut, replayed) in [("lost", Cut::BeforeStatement, false), ("replayed", Cut::BeforeResponse, true)] {
        proxy.inject(PROVISIONING_SQL, cut);
        let created = client.send(create(slug)).await.unwrap();
        assert!(proxy.was_triggered());
        assert_eq!((created.replayed, created.secret_key.is_empty()), (replayed, false), "{slug}");
    }
    assert_eq!(fixture.row_counts().await, ONE_TENANT.map(|rows| 2 * rows));
}

#[tokio::test]
async fn each_item_of_a_batch_gets_a_request_id_unless_it_has_one() {
    let fixture = Fixture::start().await;
    let client = connect(&fixture).await;
    let request_id = Some(uuid::Uuid::new_v4().to_string());
    let with_id = CreateFullyProvisionedRequest { request_id, ..create("with-id") };
    let requests = vec![create("without-id"), with_id.clone(), create("also-without-id")];
    let results = client.send(BatchCreateFullyProvisionedRequest { requests }).await.unwrap().results;
    assert!(results.iter().all(|item| matches!(item.result, Some(BatchResult::Provisioned(_)))), "{results:?}");
    assert_eq!(fixture.count("idempotency_records").await, 3);
    assert!(client.send(with_id).await.unwrap().replayed, "the item was sent with its own id");
}

#[tokio::test]
async fn a_call_that_a_repeat_could_change_is_not_repeated() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let client = connect(&fixture).await;
    proxy.inject("COMMIT", Cut::BeforeResponse);
    let request = UpsertSegmentRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Elopements".to_owned()),
        ..UpsertSegmentRequest::default()
    };
    let error = client.send(request).await.unwrap_err();
    assert!(proxy.was_triggered());
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, Some(Reason::DatabaseUnavailable)));
    assert_eq!(error.retry_delay(), Some(Duration::from_secs(1)));
    assert_eq!(fixture.count("segments WHERE name = 'Elopements'").await, 1);
}

#[tokio::test]
async fn a_call_that_the_server_has_refused_is_repeated_after_the_delay_that_it_asks_for() {
    let limited = ServerSettings { rate_limit_per_caller: Some(1.try_into().unwrap()), ..settings() };
    let fixture = Fixture::with_settings(limited).await;
    let client = connect(&fixture).await;
    let created = client.send(create("bella-weddings")).await.unwrap().tenant.unwrap();
    // A repeat of this call would create another segment, but the server has done nothing for the calls that it
    // refused.
    let request =
        UpsertSegmentRequest { tenant_id: created.id, name: Some("Elopements".to_owned()), ..Default::default() };
    let results = join_all((0..3).map(|_| client.send(request.clone()))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(fixture.count("segments WHERE name = 'Elopements'").await, 3);
}

#[tokio::test]
async fn errors_have_a_reason_and_violations() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    let client = connect(&fixture).await;
    let taken = client.send(create("bella-weddings")).await.unwrap_err();
    assert_eq!((taken.code(), taken.reason()), (Code::AlreadyExists, Some(Reason::SlugTaken)));

    let invalid = client.send(UpsertPackageRequest { tenant_id: tenant.id, ..Default::default() }).await.unwrap_err();
    assert_eq!(invalid.reason(), Some(Reason::InvalidRequest));
    let violations = invalid.violations();
    let fields: Vec<_> = violations.iter().map(|violation| (violation.field.as_str(), &violation.reason)).collect();
    assert_eq!(fields, [("name", &ViolationReason::MissingField), ("base_price", &ViolationReason::MissingField)]);
}

#[tokio::test]
async fn each_call_has_the_token() {
    let tokens = Tokens::new();
    let token = tokens.create("reporting", &["reader"]);
    let fixture = Fixture::with_settings(tokens.settings()).await;
    let with_token = connector(&fixture).token(token).connect_lazy().unwrap();
    let identifier = Some(Identifier::Slug("omers-cafe".to_owned()));
    let request = GetTenantRequest { identifier };
    let error = with_token.send(request.clone()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::TenantNotFound));
    let stub = with_token.provisioning().get_tenant(request.clone()).await.unwrap_err();
    assert_eq!(turnkey_client::Error::from(stub).reason(), Some(Reason::TenantNotFound));
    let mut findings = with_token.stream(CheckIntegrityRequest::default()).await.unwrap();
    assert_eq!(findings.next().await.unwrap(), None);
    let without_token = connect(&fixture).await.send(request).await.unwrap_err();
    assert_eq!(without_token.reason(), Some(Reason::Unauthenticated));
}

#[tokio::test]
async fn a_server_that_never_responds_costs_at_most_the_total_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let short = RetryPolicy {
        attempt_timeout: Duration::from_millis(50),
        total_timeout: Duration::from_millis(500),
        ..RetryPolicy::default()
    };
    let client = Connector::new(&url).unwrap().retry(short).connect_lazy().unwrap();
    let error = client.send(GetTenantRequest::default()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::DeadlineExceeded, None));
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_of_the_connection() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let error = Connector::new(&format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot reach the server");
}
