//! Concurrent creates share statements. Whatever happens to one tenant of a statement, the others are created, each
//! caller gets its own response, and nothing is created twice.
//!
//! A proxy holds back every statement that the server runs at a time. Creates that arrive then wait, and share the next
//! statement. Meanwhile the timers are stopped, so that they wait for as long as the machine needs.

use std::{collections::BTreeSet, ops::Deref, sync::mpsc};

use sqlx::PgPool;
use tokio::task::{JoinSet, yield_now};
use tonic::{Code, IntoRequest, Status};
use turnkey::{
    config::ServerSettings,
    domain::Argon2Params,
    grpc::pb::{
        BatchCreateFullyProvisionedRequest, CreateFromSignupRequest, CreateFullyProvisionedRequest,
        CreateFullyProvisionedResponse, Verdict, batch_create_fully_provisioned_result::Result as BatchResult,
    },
};

use crate::support::{
    citus::{can_have_triggers, is_skipped_on_citus},
    faults::PROVISIONING_SQL,
    fixture::{Fixture, one_connection, settings},
    proxy::{Cut, Proxy},
    requests::{named, request_id, signup, with_bearer},
    responses::reason,
    tokens::Tokens,
};

/// How many statements the server runs at a time.
const STATEMENTS: usize = 2;

/// What a create of any RPC returns: the tenant's slug, its secret key, and whether it is a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Created {
    slug: String,
    secret_key: String,
    replayed: bool,
}

impl From<CreateFullyProvisionedResponse> for Created {
    fn from(response: CreateFullyProvisionedResponse) -> Self {
        let (secret_key, replayed) = (response.secret_key, response.replayed);
        Self { slug: response.tenant.unwrap().slug, secret_key, replayed }
    }
}

/// Calls in progress. A batch has several results.
type Calls = JoinSet<Result<Vec<Created>, Status>>;

/// A server that reaches its database through a proxy.
struct ProxiedServer {
    fixture: Fixture,
    proxy: Proxy,
}

/// No timer of the runtime expires until this is dropped.
struct StoppedTime {
    _resume: mpsc::Sender<()>,
}

/// A server all of whose statements that create tenants are held back.
struct Blocked<'a> {
    server: &'a ProxiedServer,
    time: StoppedTime,
    blockers: Calls,
}

impl Deref for ProxiedServer {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.fixture
    }
}

impl StoppedTime {
    fn start() -> Self {
        tokio::time::pause();
        let (resume, resumed) = mpsc::channel();
        // While a blocking task runs, paused time does not advance by itself.
        tokio::task::spawn_blocking(move || resumed.recv());
        Self { _resume: resume }
    }
}

impl Drop for StoppedTime {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

impl ProxiedServer {
    async fn start() -> Self {
        Self::with_settings(settings()).await
    }

    async fn with_settings(settings: ServerSettings) -> Self {
        // Passwords are hashed as fast as keys.
        let settings = ServerSettings { password_argon2: Argon2Params::KEY, ..settings };
        let (fixture, proxy) = Fixture::behind_proxy(settings).await;
        Self { fixture, proxy }
    }

    fn create(&self, calls: &mut Calls, request: impl IntoRequest<CreateFullyProvisionedRequest>) {
        let (mut client, request) = (self.provisioning.clone(), request.into_request());
        calls.spawn(async move { Ok(vec![client.create_fully_provisioned(request).await?.into_inner().into()]) });
    }

    fn sign_up(&self, calls: &mut Calls, request: impl IntoRequest<CreateFromSignupRequest>) {
        let (mut client, request) = (self.provisioning.clone(), request.into_request());
        calls.spawn(async move {
            let response = client.create_from_signup(request).await?.into_inner();
            let (secret_key, replayed) = (response.secret_key, response.replayed);
            Ok(vec![Created { slug: response.tenant.unwrap().slug, secret_key, replayed }])
        });
    }

    /// All items must succeed.
    fn create_batch(&self, calls: &mut Calls, requests: Vec<CreateFullyProvisionedRequest>, token: Option<&str>) {
        let request = with_bearer(BatchCreateFullyProvisionedRequest { requests }, token);
        let mut client = self.provisioning.clone();
        calls.spawn(async move {
            let results = client.batch_create_fully_provisioned(request).await?.into_inner().results;
            let created = results.into_iter().map(|result| match result.result.unwrap() {
                BatchResult::Provisioned(response) => response.into(),
                BatchResult::Error(error) => panic!("{error:?}"),
            });
            Ok(created.collect())
        });
    }

    /// Starts five creates and a batch of five that nothing is wrong with.
    fn create_others(&self, calls: &mut Calls) {
        for number in 0..5 {
            self.create(calls, with_request_id(&format!("other-{number}"), 100 + number));
        }
        self.create_batch(calls, (0..5).map(|number| named(&format!("other-item-{number}"))).collect(), None);
    }

    /// Holds back all statements, one after the other.
    async fn block(&self, token: Option<&str>) -> Blocked<'_> {
        let (time, held_before) = (StoppedTime::start(), self.proxy.held());
        self.proxy.hold(PROVISIONING_SQL);
        let mut blockers = JoinSet::new();
        for number in 1..=STATEMENTS {
            self.create(&mut blockers, with_bearer(named(&format!("blocker-{number}")), token));
            while self.proxy.held() - held_before < number {
                yield_now().await;
            }
        }
        Blocked { server: self, time, blockers }
    }

    /// The number of statements that created the tenants with this prefix: each is a transaction.
    async fn statements(&self, prefix: &str) -> i64 {
        let sql = "SELECT count(DISTINCT xmin::text) FROM tenants WHERE starts_with(slug, $1)";
        sqlx::query_scalar(sql).bind(prefix).fetch_one(&self.superuser_pool().await).await.unwrap()
    }

    /// Every caller has the key of a tenant of its own, and nothing else was created with this prefix.
    async fn assert_created_once(&self, created: &[Created], prefix: &str) {
        for response in created {
            let verified = self.verify(&response.secret_key).await;
            assert_eq!((verified.verdict(), &verified.tenant_slug), (Verdict::Valid, &response.slug));
        }
        let slugs: BTreeSet<&String> = created.iter().map(|response| &response.slug).collect();
        let sql = "SELECT slug FROM tenants WHERE starts_with(slug, $1)";
        let pool = self.superuser_pool().await;
        let stored: Vec<String> = sqlx::query_scalar(sql).bind(prefix).fetch_all(&pool).await.unwrap();
        assert_eq!(stored.iter().collect::<BTreeSet<_>>(), slugs);
        assert_eq!(slugs.len(), created.len());
        assert_eq!(self.check_integrity(None).await.unwrap(), []);
    }

    async fn assert_others_were_created(&self, others: Calls) {
        let (created, reasons) = join(others).await;
        assert_eq!((created.len(), reasons), (10, vec![]));
        self.assert_created_once(&created, "other-").await;
    }
}

impl Blocked<'_> {
    /// Waits until this many creates wait, and lets all statements go on.
    async fn release_when_waiting(self, creations: u64) {
        while self.server.server.waiting_creations() != creations {
            yield_now().await;
        }
        drop(self.time);
        self.server.proxy.release();
        let mut blockers = self.blockers;
        blockers.detach_all();
    }
}

fn with_request_id(slug: &str, number: u32) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest { request_id: Some(request_id(number)), ..named(slug) }
}

/// Separates what was created from the reasons of the errors.
async fn join(calls: Calls) -> (Vec<Created>, Vec<String>) {
    let (mut created, mut reasons) = (Vec::new(), Vec::new());
    for response in calls.join_all().await {
        match response {
            Ok(response) => created.extend(response),
            Err(error) => reasons.push(reason(&error)),
        }
    }
    (created, reasons)
}

/// Waits until a statement waits for a lock in the database.
async fn wait_for_lock(superuser: &PgPool) {
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity
                               WHERE datname = current_database() AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(sql).fetch_one(superuser).await.unwrap() {}
}

#[tokio::test]
async fn concurrent_creates_of_any_rpc_and_caller_share_one_statement() {
    let tokens = Tokens::new();
    let callers = ["admin-ui", "crm"].map(|name| tokens.create(name, &["provisioner"]));
    let server = ProxiedServer::with_settings(tokens.settings()).await;
    let blocked = server.block(Some(&callers[0])).await;
    let mut calls = JoinSet::new();
    // The same request ids with another caller or RPC are others.
    for (caller, token) in callers.iter().enumerate() {
        for number in 0..4 {
            let request = with_request_id(&format!("tenant-{caller}-{number}"), number);
            server.create(&mut calls, with_bearer(request, Some(token)));
        }
        let request_id = Some(request_id(0));
        let email = format!("owner-{caller}@example.com");
        let request = CreateFromSignupRequest { request_id, ..signup(&format!("Tenant S{caller}"), &email) };
        server.sign_up(&mut calls, with_bearer(request, Some(token)));
    }
    let batch = (0..5).map(|number| named(&format!("tenant-b{number}"))).collect();
    server.create_batch(&mut calls, batch, Some(&callers[1]));
    blocked.release_when_waiting(8 + 2 + 5).await;
    let (created, reasons) = join(calls).await;
    assert_eq!((created.len(), reasons), (15, vec![]));
    assert_eq!(server.statements("tenant-").await, 1);
    assert_eq!(server.count("idempotency_records").await, 10);
}

#[tokio::test]
async fn fifty_identical_creates_among_others_create_one_tenant_and_get_the_same_response() {
    let server = ProxiedServer::start().await;
    let blocked = server.block(None).await;
    let (mut identical, mut others) = (JoinSet::new(), JoinSet::new());
    for _ in 0..50 {
        server.create(&mut identical, with_request_id("bella", 0));
    }
    server.create_others(&mut others);
    blocked.release_when_waiting(50 + 10).await;
    let (responses, reasons) = join(identical).await;
    assert_eq!((responses.len(), reasons), (50, vec![]));
    assert_eq!(responses.iter().filter(|response| !response.replayed).count(), 1);
    assert!(responses.iter().all(|response| response.secret_key == responses[0].secret_key));
    server.assert_created_once(&responses[..1], "bella").await;
    server.assert_others_were_created(others).await;
    assert_eq!(server.statements("other-").await, 1, "they do not wait for the identical ones");
}

#[tokio::test]
async fn of_fifty_different_creates_for_one_slug_one_succeeds_and_the_others_affect_no_other_create() {
    let server = ProxiedServer::start().await;
    let blocked = server.block(None).await;
    let (mut rivals, mut others) = (JoinSet::new(), JoinSet::new());
    for number in 0..50 {
        let request = CreateFullyProvisionedRequest { name: format!("Bella {number}"), ..named("bella") };
        server.create(&mut rivals, request);
    }
    server.create_others(&mut others);
    blocked.release_when_waiting(50 + 10).await;
    let (won, lost) = join(rivals).await;
    assert_eq!(lost, vec!["SLUG_TAKEN"; 49]);
    server.assert_created_once(&won, "bella").await;
    server.assert_others_were_created(others).await;
    assert_eq!(server.statements("other-").await, 1);
}

#[tokio::test]
async fn existing_slugs_addresses_and_request_ids_do_not_fail_the_statement() {
    let server = ProxiedServer::start().await;
    let first = server.fixture.create(with_request_id("bella", 1)).await.unwrap();
    server.fixture.sign_up(signup("Omer", "omer@example.com")).await.unwrap();
    let blocked = server.block(None).await;
    let (mut refused, mut replays, mut others) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    server.create(&mut refused, named("omer"));
    server.sign_up(&mut refused, signup("Bella Two", "OMER@example.com"));
    server.create(&mut replays, with_request_id("bella", 1));
    server.create_others(&mut others);
    blocked.release_when_waiting(3 + 10).await;
    let (created, reasons) = join(refused).await;
    let reasons: BTreeSet<_> = reasons.iter().map(String::as_str).collect();
    assert_eq!((created, reasons), (vec![], BTreeSet::from(["SLUG_TAKEN", "EMAIL_TAKEN"])));
    let (replays, _) = join(replays).await;
    assert_eq!((replays[0].replayed, &replays[0].secret_key), (true, &first.secret_key));
    server.assert_others_were_created(others).await;
    assert_eq!(server.statements("other-").await, 1);
}

#[tokio::test]
async fn a_slug_lost_to_a_race_fails_only_its_own_call() {
    let server = ProxiedServer::start().await;
    let superuser = server.superuser_pool().await;
    let mut winner = superuser.begin().await.unwrap();
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *winner).await.unwrap();
    let insert = "INSERT INTO tenants VALUES (gen_random_uuid(), 'bella', 'x', 10, '{}', true, now(), now())";
    sqlx::query(insert).execute(&mut *winner).await.unwrap();
    let blocked = server.block(None).await;
    let (mut losers, mut others) = (JoinSet::new(), JoinSet::new());
    server.create(&mut losers, with_request_id("bella", 1));
    server.create_others(&mut others);
    blocked.release_when_waiting(1 + 10).await;
    wait_for_lock(&superuser).await;
    winner.commit().await.unwrap();
    assert_eq!(join(losers).await, (vec![], vec!["SLUG_TAKEN".to_owned()]));
    server.database.execute_without_triggers("DELETE FROM tenants WHERE slug = 'bella'").await;
    server.assert_others_were_created(others).await;
}

#[tokio::test]
async fn an_address_lost_to_a_race_fails_only_its_own_call() {
    let server = ProxiedServer::start().await;
    let superuser = server.superuser_pool().await;
    let mut winner = superuser.begin().await.unwrap();
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *winner).await.unwrap();
    // With its tenant, without which an owner does not count.
    let insert = "WITH tenant AS (INSERT INTO tenants
                                  VALUES (gen_random_uuid(), 'winner', 'x', 10, '{}', true, now(), now()) RETURNING id)
                  INSERT INTO owners SELECT id, 'bella@example.com', 'bella@example.com', '$argon2id$x' FROM tenant";
    sqlx::query(insert).execute(&mut *winner).await.unwrap();
    let blocked = server.block(None).await;
    let (mut losers, mut others) = (JoinSet::new(), JoinSet::new());
    server.sign_up(&mut losers, signup("Bella", "Bella@example.com"));
    server.create_others(&mut others);
    blocked.release_when_waiting(1 + 10).await;
    wait_for_lock(&superuser).await;
    winner.commit().await.unwrap();
    assert_eq!(join(losers).await, (vec![], vec!["EMAIL_TAKEN".to_owned()]));
    assert_eq!(server.count("tenants WHERE slug = 'bella'").await, 0);
    let delete = "DELETE FROM owners WHERE email = 'bella@example.com'; DELETE FROM tenants WHERE slug = 'winner'";
    server.database.execute_without_triggers(delete).await;
    server.assert_others_were_created(others).await;
}

/// Lets statements fail that insert into this table for the tenant `doomed`, as often as given.
async fn fail_doomed_tenant(fixture: &Fixture, table: &str, sqlstate: &str, failures: u32) {
    let sql = format!(
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             IF EXISTS (SELECT FROM public.tenants
                         WHERE slug = 'doomed' AND id::text IN (to_jsonb(NEW) ->> 'id', to_jsonb(NEW) ->> 'tenant_id'))
                AND nextval('public.attempts') <= {failures}
             THEN
                 RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = 'injected';
             END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER fail AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fail()"
    );
    fixture.database.execute(sql).await;
}

async fn attempts(fixture: &Fixture) -> i64 {
    sqlx::query_scalar("SELECT last_value FROM attempts").fetch_one(&fixture.superuser_pool().await).await.unwrap()
}

/// A sign-up with a request id, which writes to every table.
fn doomed() -> CreateFromSignupRequest {
    CreateFromSignupRequest { request_id: Some(request_id(1)), ..signup("Doomed", "doomed@example.com") }
}

#[tokio::test]
async fn a_failed_insert_into_any_table_leaves_nothing_of_its_tenant_and_all_of_the_others() {
    let tables = ["tenants", "segments", "packages", "api_keys", "owners", "idempotency_records", "tenant_usage"];
    for table in tables.into_iter().filter(|table| can_have_triggers(table)) {
        let server = ProxiedServer::start().await;
        fail_doomed_tenant(&server, table, "XX000", u32::MAX).await;
        let blocked = server.block(None).await;
        let (mut failed, mut others) = (JoinSet::new(), JoinSet::new());
        server.sign_up(&mut failed, doomed());
        server.create_others(&mut others);
        blocked.release_when_waiting(1 + 10).await;
        assert_eq!(join(failed).await, (vec![], vec!["INTERNAL".to_owned()]), "{table}");
        server.assert_others_were_created(others).await;
        assert_eq!(server.count("tenants WHERE slug = 'doomed'").await, 0);
        assert_eq!(server.count("owners").await, 0);
        assert_eq!(server.count("idempotency_records").await, 5, "no request id is used up");
        server.database.execute("DROP FUNCTION fail CASCADE").await;
        assert!(!server.fixture.sign_up(doomed()).await.unwrap().replayed, "{table}");
    }
}

#[tokio::test]
async fn a_deadlock_or_serialization_failure_of_one_tenant_is_retried_for_it_alone() {
    for (sqlstate, failures, expected) in [("40P01", 3, None), ("40001", u32::MAX, Some("CONFLICT".to_owned()))] {
        let server = ProxiedServer::start().await;
        fail_doomed_tenant(&server, "api_keys", sqlstate, failures).await;
        let blocked = server.block(None).await;
        let (mut calls, mut others) = (JoinSet::new(), JoinSet::new());
        server.sign_up(&mut calls, doomed());
        server.create_others(&mut others);
        blocked.release_when_waiting(1 + 10).await;
        let (created, reasons) = join(calls).await;
        assert_eq!(reasons, Vec::from_iter(expected), "{sqlstate}");
        server.assert_created_once(&created, "doomed").await;
        server.assert_others_were_created(others).await;
        // The shared statement, the same alone, and two retries.
        assert_eq!(attempts(&server).await, 4, "{sqlstate}");
    }
}

#[tokio::test]
async fn callers_that_disconnect_while_their_creates_wait_affect_no_other_create() {
    let server = ProxiedServer::start().await;
    let blocked = server.block(None).await;
    let gone = |number| with_request_id(&format!("gone-{number}"), number);
    let (mut calls, mut others) = (JoinSet::new(), JoinSet::new());
    for number in 0..8 {
        server.create(&mut calls, gone(number));
    }
    while server.server.waiting_creations() != 8 {
        yield_now().await;
    }
    calls.shutdown().await;
    server.create_others(&mut others);
    blocked.release_when_waiting(8 + 10).await;
    server.assert_others_were_created(others).await;
    for number in 0..8 {
        assert!(server.fixture.create(gone(number)).await.unwrap().replayed, "the work outlives its caller");
    }
    assert_eq!(server.count("tenants WHERE slug LIKE 'gone-%'").await, 8);
}

#[tokio::test]
async fn after_a_lost_connection_each_caller_of_the_statement_gets_unavailable_and_can_repeat_its_call() {
    for (cut, stored) in [(Cut::BeforeStatement, 0), (Cut::BeforeResponse, 10)] {
        let server = ProxiedServer::start().await;
        let blocked = server.block(None).await;
        let request = |number| with_request_id(&format!("tenant-{number}"), number);
        let mut calls = JoinSet::new();
        for number in 0..10 {
            server.create(&mut calls, request(number));
        }
        server.proxy.inject(PROVISIONING_SQL, cut);
        blocked.release_when_waiting(10).await;
        for response in calls.join_all().await {
            let error = response.unwrap_err();
            assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
        }
        assert_eq!(server.count("tenants WHERE slug LIKE 'tenant-%'").await, stored, "nothing was tried again");
        for number in 0..10 {
            let repeated = server.fixture.create(request(number)).await.unwrap();
            assert_eq!(repeated.replayed, stored > 0);
            assert_eq!(server.verify(&repeated.secret_key).await.verdict(), Verdict::Valid);
        }
        assert_eq!(server.count("tenants WHERE slug LIKE 'tenant-%'").await, 10);
    }
}

#[tokio::test]
async fn replicas_that_create_the_same_tenants_at_once_create_each_of_them_once() {
    let one = ProxiedServer::start().await;
    let other = Fixture::start_on(one.database.clone()).await;
    let other = ProxiedServer { fixture: other, proxy: one.proxy.clone() };
    let mut calls = JoinSet::new();
    for number in 0..100 {
        // In opposite orders, which could deadlock if statements were not sorted.
        one.create(
            &mut calls,
            CreateFullyProvisionedRequest { name: "One".to_owned(), ..named(&format!("tenant-{number}")) },
        );
        other.create(&mut calls, named(&format!("tenant-{}", 99 - number)));
    }
    let (created, reasons) = join(calls).await;
    assert_eq!(reasons, vec!["SLUG_TAKEN"; 100]);
    one.assert_created_once(&created, "tenant-").await;
}

#[tokio::test]
async fn single_creates_are_served_while_large_batches_wait_also_with_one_connection() {
    if is_skipped_on_citus("a batch waits for the only connection for more than a second, and is rejected") {
        return;
    }
    let server = ProxiedServer::with_settings(one_connection()).await;
    let mut batches = JoinSet::new();
    for batch in 0..4 {
        let requests = (0..250).map(|number| named(&format!("batch-{batch}-{number}"))).collect();
        server.create_batch(&mut batches, requests, None);
    }
    while server.server.waiting_creations() == 0 {
        yield_now().await;
    }
    let single = server.tenant("single").await;
    assert!(server.server.waiting_creations() > 0, "the batches still wait");
    assert_eq!(server.verify(&single.secret_key).await.verdict(), Verdict::Valid);
    let (created, reasons) = join(batches).await;
    assert_eq!((created.len(), reasons), (1_000, vec![]));
}
