//! CallerBehavior that go on creating tenants whatever happens, and keep every answer: what was answered must be there in the
//! end, once and whole, and a repeat must be answered alike.

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
    CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, VerifyApiKeyRequest,
    tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use crate::fixture::named;

/// Answers that do not come within this never come.
const PATIENCE: Duration = Duration::from_mins(1);
/// Of a try; a caller that got no answer tries again.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of the first try of a caller that has little patience, at most, in microseconds; it has more with every try, or
/// work that nobody waits for would take all the time there is.
const LITTLE_PATIENCE_US: u64 = 12_000;
const AT_ONCE: usize = 8;

pub type Client = TenantProvisioningClient<Channel>;
type ClientFactory = Arc<dyn Fn() -> Client + Send + Sync>;

/// Codes and messages of failed tries, and how many of each.
pub type Failures = BTreeMap<(String, String), u64>;

/// A call that was answered in the end.
struct AnsweredCall {
    request: CreateFullyProvisionedRequest,
    answer: CreateFullyProvisionedResponse,
    /// Since it was first asked, all tries included.
    waited: Duration,
}

/// How long callers wait for an answer before they ask again.
#[derive(Debug, Clone, Copy)]
pub enum CallerBehavior {
    Waits,
    /// They hang up, or set a deadline, after some milliseconds: as many as come up.
    HangsUp {
        seed: u64,
    },
}

/// What came of a load. All but the first four must be nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    pub answered: usize,
    /// Answered with what an earlier try had made.
    pub replayed: usize,
    pub failed_tries: u64,
    pub longest_wait: Duration,
    /// Tenants that a caller was told of and the database does not have.
    pub lost: usize,
    /// Tenants that no caller was told of, although every call was answered.
    pub surplus: usize,
    /// Tenants without a segment, three packages and a key.
    pub half: usize,
    /// Repeats that were answered otherwise than the first time, and keys that do not open their tenant.
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
            failed_tries: self.failed_tries + other.failed_tries,
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
    pick: ClientFactory,
    answered: watch::Receiver<u64>,
    failures: Arc<Mutex<Failures>>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    /// Each caller makes one tenant after another, each with a request id, and repeats what failed until it is done. Every
    /// call goes to whom `pick` names.
    pub fn start(count: usize, pick: impl Fn() -> Client + Send + Sync + 'static) -> Self {
        Self::start_with(count, CallerBehavior::Waits, pick)
    }

    pub fn start_with(
        count: usize,
        callers: CallerBehavior,
        pick: impl Fn() -> Client + Send + Sync + 'static,
    ) -> Self {
        let (sender, answered) = watch::channel(0);
        let (failures, is_over) = (Arc::default(), Arc::default());
        let mut load = Self { callers: JoinSet::new(), pick: Arc::new(pick), answered, failures, is_over };
        for number in 0..count {
            let (sender, is_over) = (sender.clone(), Arc::clone(&load.is_over));
            let mut caller = Caller::new(number, callers, &load);
            load.callers.spawn(async move {
                let mut made = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    made.push(caller.create(&format!("tenant-{number}-{}", made.len())).await);
                    sender.send_modify(|count| *count += 1);
                }
                made
            });
        }
        load
    }

    /// Until this many more tenants were made. However long that takes, none of them takes for ever.
    pub async fn more(&mut self, count: u64) {
        let goal = *self.answered.borrow() + count;
        while *self.answered.borrow_and_update() < goal {
            timeout(PATIENCE, self.answered.changed()).await.expect("callers get on").unwrap();
        }
    }

    pub fn failures(&self) -> Failures {
        self.failures.lock().unwrap().clone()
    }

    /// The end: all that was answered is held against this database, and asked for once more.
    pub async fn stop(mut self, superuser: &PgConnectOptions) -> Outcome {
        self.is_over.store(true, Ordering::Relaxed);
        let made = timeout(PATIENCE, std::mem::take(&mut self.callers).join_all()).await.expect("callers end");
        let made: Vec<AnsweredCall> = made.into_iter().flatten().collect();
        let answered: BTreeSet<_> = made.iter().map(|made| tenant_in(&made.answer)).collect();
        let (whole, half) = tenants_in(superuser).await;
        let repeats = stream::iter(&made).map(|made| is_answered_alike(&self.pick, made)).buffer_unordered(AT_ONCE);
        let failed_tries = self.failures().values().sum();
        Outcome {
            answered: made.len(),
            replayed: made.iter().filter(|made| made.answer.replayed).count(),
            failed_tries,
            longest_wait: made.iter().map(|made| made.waited).max().unwrap_or_default(),
            lost: answered.difference(&whole).count(),
            surplus: whole.difference(&answered).count(),
            half,
            changed: repeats.filter(|is_alike| std::future::ready(!is_alike)).count().await,
        }
    }

    /// The end: nothing is lost, nothing is there twice, nothing is half.
    pub async fn stop_and_compare(self, superuser: &PgConnectOptions) {
        let outcome = self.stop(superuser).await;
        assert!(outcome.is_sound(), "{outcome:?}");
    }
}

/// Id and public key.
fn tenant_in(answer: &CreateFullyProvisionedResponse) -> (String, String) {
    let tenant = answer.tenant.as_ref().unwrap();
    (tenant.id.clone(), tenant.api_key_public.clone())
}

/// Those of the callers here that are whole, by id and public key, and how many of anybody's are not.
async fn tenants_in(superuser: &PgConnectOptions) -> (BTreeSet<(String, String)>, usize) {
    let superuser = PgPool::connect_with(superuser.clone()).await.unwrap();
    let tenants: Vec<(Uuid, String, Option<String>, bool)> = sqlx::query_as(
        "SELECT id, slug, (SELECT min(public_key) FROM api_keys WHERE tenant_id = tenants.id),
                (SELECT count(*) FROM segments WHERE tenant_id = tenants.id) = 1
                AND (SELECT count(*) FROM packages WHERE tenant_id = tenants.id) = 3
                AND (SELECT count(*) FROM api_keys WHERE tenant_id = tenants.id) = 1
           FROM tenants",
    )
    .fetch_all(&superuser)
    .await
    .unwrap();
    let half = tenants.iter().filter(|(.., is_whole)| !is_whole).count();
    let whole = tenants.into_iter().filter(|(_, slug, _, is_whole)| *is_whole && slug.starts_with("tenant-"));
    (whole.map(|(id, _, key, _)| (id.to_string(), key.unwrap())).collect(), half)
}

/// Whether the first call got what it asked for, a repeat gets the same, and the key opens that tenant.
async fn is_answered_alike(pick: &ClientFactory, made: &AnsweredCall) -> bool {
    let mut client = pick();
    let again = client.create_fully_provisioned(made.request.clone()).await.unwrap().into_inner();
    let secret_key = made.answer.secret_key.clone();
    let owner = client.verify_api_key(VerifyApiKeyRequest { secret_key }).await.unwrap().into_inner();
    let slug = &made.answer.tenant.as_ref().unwrap().slug;
    again == CreateFullyProvisionedResponse { replayed: true, ..made.answer.clone() }
        && *slug == made.request.slug
        && owner.tenant_id == tenant_in(&made.answer).0
}

struct Caller {
    pick: ClientFactory,
    failures: Arc<Mutex<Failures>>,
    /// None with all the patience it takes.
    random: Option<StdRng>,
}

impl Caller {
    fn new(number: usize, callers: CallerBehavior, load: &Load) -> Self {
        let random = match callers {
            CallerBehavior::Waits => None,
            CallerBehavior::HangsUp { seed } => Some(StdRng::seed_from_u64(seed.wrapping_add(number as u64))),
        };
        Self { pick: Arc::clone(&load.pick), failures: Arc::clone(&load.failures), random }
    }

    async fn create(&mut self, slug: &str) -> AnsweredCall {
        let request = CreateFullyProvisionedRequest { request_id: Some(Uuid::new_v4().to_string()), ..named(slug) };
        let asked = Instant::now();
        for tries in 1.. {
            match self.ask(request.clone(), tries).await {
                Ok(answer) => return AnsweredCall { request, answer, waited: asked.elapsed() },
                Err((code, message)) => {
                    *self.failures.lock().unwrap().entry((code, message)).or_default() += 1;
                    if self.random.is_none() {
                        sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
        unreachable!("tries go on until one is answered")
    }

    async fn ask(
        &mut self,
        request: CreateFullyProvisionedRequest,
        tries: u64,
    ) -> Result<CreateFullyProvisionedResponse, (String, String)> {
        let mut call = Request::new(request);
        let (patience, is_told) = match &mut self.random {
            None => (DEADLINE, true),
            Some(random) => {
                let micros = random.random_range(0..LITTLE_PATIENCE_US * tries);
                (Duration::from_micros(micros), random.random())
            }
        };
        if is_told {
            call.set_timeout(patience);
        }
        let mut client = (self.pick)();
        // Whoever does not tell how long he waits hangs up then.
        match timeout(patience.saturating_mul(if is_told { 2 } else { 1 }), client.create_fully_provisioned(call)).await
        {
            Err(_elapsed) => Err(("hung up".to_owned(), String::new())),
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                assert!(may_pass(&status), "{status:?}");
                Err((format!("{:?}", status.code()), status.message().to_owned()))
            }
        }
    }
}

/// What a caller may hear while things are broken: that they are, or nothing at all because the server is gone.
fn may_pass(status: &Status) -> bool {
    let is_of_the_line = status.source().is_some();
    // tonic's clients call their own timer's end CANCELLED.
    is_of_the_line
        || matches!(
            status.code(),
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled
        )
}
