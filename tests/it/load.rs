//! Callers that go on creating tenants whatever happens, and keep every answer: what was answered must be there in the
//! end, once and whole.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{PgPool, postgres::PgConnectOptions};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tonic::{Code, Request, transport::Channel};
use turnkey::grpc::pb::{
    CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, tenant_provisioning_client::TenantProvisioningClient,
};
use uuid::Uuid;

use crate::fixture::named;

/// Answers that do not come within this never come.
const PATIENCE: Duration = Duration::from_mins(1);
/// Of a try; a caller that got no answer tries again.
const DEADLINE: Duration = Duration::from_secs(10);

/// Codes and messages of failed tries.
pub type Failures = BTreeSet<(String, String)>;

pub type Client = TenantProvisioningClient<Channel>;

pub struct Load {
    callers: JoinSet<Vec<CreateFullyProvisionedResponse>>,
    answered: watch::Receiver<u64>,
    failures: Arc<Mutex<Failures>>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    /// Each caller makes one tenant after another, each with a request id, and repeats what failed for want of a database
    /// until it is done. Every call goes to whom `pick` names.
    pub fn start(callers: usize, pick: impl Fn() -> Client + Clone + Send + Sync + 'static) -> Self {
        let (sender, answered) = watch::channel(0);
        let mut load = Self { callers: JoinSet::new(), answered, failures: Arc::default(), is_over: Arc::default() };
        for caller in 0..callers {
            let (sender, failures, pick) = (sender.clone(), Arc::clone(&load.failures), pick.clone());
            let is_over = Arc::clone(&load.is_over);
            load.callers.spawn(async move {
                let mut answers = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let request = CreateFullyProvisionedRequest {
                        request_id: Some(Uuid::new_v4().to_string()),
                        ..named(&format!("tenant-{caller}-{}", answers.len()))
                    };
                    answers.push(create(&pick, request, &failures).await);
                    sender.send_modify(|count| *count += 1);
                }
                answers
            });
        }
        load
    }

    /// Until this many more tenants were made.
    pub async fn more(&mut self, count: u64) {
        let goal = *self.answered.borrow() + count;
        timeout(PATIENCE, self.answered.wait_for(|answered| *answered >= goal)).await.expect("callers get on").unwrap();
    }

    pub fn failures(&self) -> Failures {
        self.failures.lock().unwrap().clone()
    }

    /// The end: what was answered is in this database, every tenant whole, and nothing else is.
    pub async fn stop_and_compare(self, superuser: &PgConnectOptions) {
        self.is_over.store(true, Ordering::Relaxed);
        let answers = timeout(PATIENCE, self.callers.join_all()).await.expect("callers end").concat();
        let hands = PgPool::connect_with(superuser.clone()).await.unwrap();
        let tenants: Vec<(Uuid, String)> = sqlx::query_as(
            "SELECT id, (SELECT 'pk_live_tenant_' || key_id FROM api_keys WHERE tenant_id = tenants.id)
               FROM tenants
              WHERE (SELECT count(*) FROM segments WHERE tenant_id = tenants.id) = 1
                AND (SELECT count(*) FROM packages WHERE tenant_id = tenants.id) = 3
                AND (SELECT count(*) FROM api_keys WHERE tenant_id = tenants.id) = 1",
        )
        .fetch_all(&hands)
        .await
        .unwrap();
        let there: BTreeSet<(String, String)> = tenants.into_iter().map(|(id, key)| (id.to_string(), key)).collect();
        let answered = answers.into_iter().map(|answer| answer.tenant.unwrap());
        let answered: BTreeSet<_> = answered.map(|tenant| (tenant.id, tenant.api_key_public)).collect();
        assert_eq!(there, answered, "every answer is there, and nothing that nobody was told of");
        let all: i64 = sqlx::query_scalar("SELECT count(*) FROM tenants").fetch_one(&hands).await.unwrap();
        assert_eq!(usize::try_from(all), Ok(answered.len()), "nothing is half");
    }
}

async fn create(
    pick: &impl Fn() -> Client,
    request: CreateFullyProvisionedRequest,
    failures: &Mutex<Failures>,
) -> CreateFullyProvisionedResponse {
    loop {
        let mut call = Request::new(request.clone());
        call.set_timeout(DEADLINE);
        match pick().create_fully_provisioned(call).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => {
                // tonic's clients call their own timer's end CANCELLED.
                let passing = [
                    Code::Unavailable,
                    Code::ResourceExhausted,
                    Code::Aborted,
                    Code::DeadlineExceeded,
                    Code::Cancelled,
                ];
                assert!(passing.contains(&status.code()), "{status:?}");
                failures.lock().unwrap().insert((format!("{:?}", status.code()), status.message().to_owned()));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
