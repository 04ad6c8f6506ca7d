//! Concurrent callers that create tenants while faults happen, and that keep every response. At the end, the responses
//! are compared with the database, and every call is repeated: it must get the same response again.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    ops::Add,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status, transport::Channel};
use turnkey::grpc::pb::{
    CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, Verdict, VerifyApiKeyRequest,
    tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use super::requests::named;

/// A call that has no response within this time never gets one.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// Deadline of one attempt.
const DEADLINE: Duration = Duration::from_secs(10);
/// Upper bound on the first attempt of a caller that disconnects, in microseconds. It grows with every attempt, because
/// the server would otherwise spend all its time on work that no caller waits for.
const FIRST_ATTEMPT_US: u64 = 12_000;
const CONCURRENT_REPEATS: usize = 8;

pub type Client = TenantProvisioningClient<Channel>;
type ClientFactory = Arc<dyn Fn() -> Client + Send + Sync>;

/// How many attempts failed, by code and message.
pub type Failures = BTreeMap<(String, String), u64>;

/// A call that got its response, perhaps after several attempts.
struct AnsweredCall {
    request: CreateFullyProvisionedRequest,
    response: CreateFullyProvisionedResponse,
    /// From the start of the first attempt to the response.
    elapsed: Duration,
}

/// How long a caller waits for a response before it tries again.
#[derive(Debug, Clone, Copy)]
pub enum CallerBehavior {
    Waits,
    /// Disconnects, or sets a deadline, after a random number of milliseconds.
    Disconnects {
        seed: u64,
    },
}

/// The result of a load. The last four counts must be 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    pub answered: usize,
    /// Calls whose tenant was created by an earlier attempt.
    pub replayed: usize,
    pub failed_attempts: u64,
    pub longest_wait: Duration,
    /// Tenants of a response that are missing from the database.
    pub lost: usize,
    /// Tenants in the database that no response contains, although every call has one.
    pub surplus: usize,
    /// Tenants without a segment, three packages and a key.
    pub half: usize,
    /// Calls whose repetition got a different response, or whose key does not belong to their tenant.
    pub changed: usize,
}

impl Outcome {
    pub fn is_sound(&self) -> bool {
        (self.lost, self.surplus, self.half, self.changed) == (0, 0, 0, 0)
    }
}

impl Add for Outcome {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            answered: self.answered + other.answered,
            replayed: self.replayed + other.replayed,
            failed_attempts: self.failed_attempts + other.failed_attempts,
            longest_wait: self.longest_wait.max(other.longest_wait),
            lost: self.lost + other.lost,
            surplus: self.surplus + other.surplus,
            half: self.half + other.half,
            changed: self.changed + other.changed,
        }
    }
}

pub struct Load {
    callers: JoinSet<Vec<AnsweredCall>>,
    client_factory: ClientFactory,
    answered: watch::Receiver<u64>,
    failures: Arc<Mutex<Failures>>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    /// Starts callers that create one tenant after another, each with a request id, and that repeat a failed call until
    /// it succeeds. Each attempt uses a client of `client_factory`.
    pub fn start(callers: usize, client_factory: impl Fn() -> Client + Send + Sync + 'static) -> Self {
        Self::start_with(callers, CallerBehavior::Waits, client_factory)
    }

    pub fn start_with(
        callers: usize,
        behavior: CallerBehavior,
        client_factory: impl Fn() -> Client + Send + Sync + 'static,
    ) -> Self {
        let (sender, answered) = watch::channel(0);
        let (failures, is_over) = (Arc::default(), Arc::default());
        let client_factory = Arc::new(client_factory);
        let mut load = Self { callers: JoinSet::new(), client_factory, answered, failures, is_over };
        for number in 0..callers {
            let (sender, is_over) = (sender.clone(), Arc::clone(&load.is_over));
            let mut caller = Caller::new(number, behavior, &load);
            load.callers.spawn(async move {
                let mut calls = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    calls.push(caller.create(&format!("tenant-{number}-{}", calls.len())).await);
                    sender.send_modify(|count| *count += 1);
                }
                calls
            });
        }
        load
    }

    /// Waits until this many more tenants were created.
    pub async fn wait_for_calls(&mut self, count: u64) {
        let goal = *self.answered.borrow() + count;
        while *self.answered.borrow_and_update() < goal {
            timeout(CALL_TIMEOUT, self.answered.changed()).await.expect("the callers make progress").unwrap();
        }
    }

    pub fn failures(&self) -> Failures {
        self.failures.lock().unwrap().clone()
    }

    /// Stops the callers, compares their responses with this database, and repeats every call.
    pub async fn stop(mut self, superuser: &PgConnectOptions) -> Outcome {
        self.is_over.store(true, Ordering::Relaxed);
        let callers = std::mem::take(&mut self.callers);
        let calls = timeout(CALL_TIMEOUT, callers.join_all()).await.expect("the callers end");
        let calls: Vec<AnsweredCall> = calls.into_iter().flatten().collect();
        let answered: BTreeSet<_> = calls.iter().map(|call| id_and_key(&call.response)).collect();
        let (whole, half) = tenants_in(superuser).await;
        let repeats = stream::iter(&calls)
            .map(|call| is_repeat_equal(&self.client_factory, call))
            .buffer_unordered(CONCURRENT_REPEATS);
        let failed_attempts = self.failures().values().sum();
        Outcome {
            answered: calls.len(),
            replayed: calls.iter().filter(|call| call.response.replayed).count(),
            failed_attempts,
            longest_wait: calls.iter().map(|call| call.elapsed).max().unwrap_or_default(),
            lost: answered.difference(&whole).count(),
            surplus: whole.difference(&answered).count(),
            half,
            changed: repeats.filter(|is_equal| std::future::ready(!is_equal)).count().await,
        }
    }

    /// Stops the load and asserts that no tenant is lost, duplicated or incomplete.
    pub async fn stop_and_assert_sound(self, superuser: &PgConnectOptions) {
        let outcome = self.stop(superuser).await;
        assert!(outcome.is_sound(), "{outcome:?}");
    }
}

fn id_and_key(response: &CreateFullyProvisionedResponse) -> (String, String) {
    let tenant = response.tenant.as_ref().unwrap();
    (tenant.id.clone(), tenant.api_key_public.clone())
}

/// Returns id and public key of the callers' complete tenants, and the number of all incomplete tenants.
async fn tenants_in(superuser: &PgConnectOptions) -> (BTreeSet<(String, String)>, usize) {
    let superuser = PgPool::connect_with(superuser.clone()).await.unwrap();
    let tenants: Vec<(Uuid, String, Option<String>, bool)> = sqlx::query_as(
        // CTEs, because Citus does not join these tables.
        "WITH segment AS MATERIALIZED (SELECT tenant_id, count(*) FROM segments GROUP BY tenant_id),
              package AS MATERIALIZED (SELECT tenant_id, count(*) FROM packages GROUP BY tenant_id)
         SELECT id, slug, (SELECT min(public_key) FROM api_keys WHERE tenant_id = tenants.id),
                segment.count IS NOT DISTINCT FROM 1 AND package.count IS NOT DISTINCT FROM 3
                AND (SELECT count(*) FROM api_keys WHERE tenant_id = tenants.id) = 1
           FROM tenants
           LEFT JOIN segment ON segment.tenant_id = id
           LEFT JOIN package ON package.tenant_id = id",
    )
    .fetch_all(&superuser)
    .await
    .unwrap();
    let half = tenants.iter().filter(|(.., is_whole)| !is_whole).count();
    let whole = tenants.into_iter().filter(|(_, slug, _, is_whole)| *is_whole && slug.starts_with("tenant-"));
    (whole.map(|(id, _, key, _)| (id.to_string(), key.unwrap())).collect(), half)
}

/// Whether the first response is that of the request, a repetition gets the same response, and the key is valid and
/// belongs to the tenant.
async fn is_repeat_equal(client_factory: &ClientFactory, call: &AnsweredCall) -> bool {
    let mut client = client_factory();
    let repeated = client.create_fully_provisioned(call.request.clone()).await.unwrap().into_inner();
    let secret_key = call.response.secret_key.clone();
    let owner = client.verify_api_key(VerifyApiKeyRequest { secret_key }).await.unwrap().into_inner();
    let slug = &call.response.tenant.as_ref().unwrap().slug;
    repeated == CreateFullyProvisionedResponse { replayed: true, ..call.response.clone() }
        && *slug == call.request.slug
        && (owner.verdict(), &owner.tenant_id) == (Verdict::Valid, &id_and_key(&call.response).0)
}

struct Caller {
    client_factory: ClientFactory,
    failures: Arc<Mutex<Failures>>,
    /// `None` for a caller that waits.
    random: Option<StdRng>,
}

impl Caller {
    fn new(number: usize, behavior: CallerBehavior, load: &Load) -> Self {
        let random = match behavior {
            CallerBehavior::Waits => None,
            CallerBehavior::Disconnects { seed } => Some(StdRng::seed_from_u64(seed.wrapping_add(number as u64))),
        };
        Self { client_factory: Arc::clone(&load.client_factory), failures: Arc::clone(&load.failures), random }
    }

    async fn create(&mut self, slug: &str) -> AnsweredCall {
        let request = CreateFullyProvisionedRequest { request_id: Some(Uuid::new_v4().to_string()), ..named(slug) };
        let started = Instant::now();
        for attempt in 1.. {
            match self.attempt(request.clone(), attempt).await {
                Ok(response) => return AnsweredCall { request, response, elapsed: started.elapsed() },
                Err((code, message)) => {
                    *self.failures.lock().unwrap().entry((code, message)).or_default() += 1;
                    if self.random.is_none() {
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
        unreachable!("the loop ends with a response")
    }

    async fn attempt(
        &mut self,
        request: CreateFullyProvisionedRequest,
        attempt: u64,
    ) -> Result<CreateFullyProvisionedResponse, (String, String)> {
        let mut call = Request::new(request);
        let (wait, sets_deadline) = match &mut self.random {
            None => (DEADLINE, true),
            Some(random) => {
                let micros = random.random_range(0..FIRST_ATTEMPT_US * attempt);
                (Duration::from_micros(micros), random.random())
            }
        };
        if sets_deadline {
            call.set_timeout(wait);
        }
        let mut client = (self.client_factory)();
        // A caller without a deadline disconnects at the end of the wait.
        let wait = wait.saturating_mul(if sets_deadline { 2 } else { 1 });
        match timeout(wait, client.create_fully_provisioned(call)).await {
            Err(_elapsed) => Err(("disconnected".to_owned(), String::new())),
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                assert!(is_expected_during_faults(&status), "{status:?}");
                Err((format!("{:?}", status.code()), status.message().to_owned()))
            }
        }
    }
}

/// Whether a caller may get this status during a fault: a retryable code, or an error of the connection itself.
pub fn is_expected_during_faults(status: &Status) -> bool {
    let is_connection_error = status.source().is_some();
    // tonic clients report the end of their own timer as CANCELLED.
    is_connection_error
        || matches!(
            status.code(),
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled
        )
}
