//! The server is killed at random moments under load: no orphan, every answer that anyone got is in the database, and a
//! repeat gets what the first call made.

use std::sync::Arc;

use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::tempdir_in;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use turnkey::grpc::pb::{
    CreateFullyProvisionedRequest, CreateFullyProvisionedResponse, VerifyApiKeyRequest,
    tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    cluster::Cluster,
    fixture::named,
    program::{Program, turnkey, url},
};

const CALLERS: u32 = 8;

type Answers = Arc<Mutex<Vec<(CreateFullyProvisionedRequest, Option<CreateFullyProvisionedResponse>)>>>;

fn request(round: u32, caller: u32, number: u32) -> CreateFullyProvisionedRequest {
    CreateFullyProvisionedRequest {
        request_id: Some(format!("{round:08x}-{caller:04x}-4ef8-bb6d-6bb9{number:08x}")),
        ..named(&format!("tenant-{round}-{caller}-{number}"))
    }
}

/// Calls until the server is gone; the last call has no answer.
async fn call_until_the_end(address: String, round: u32, caller: u32, answers: Answers, answered: mpsc::Sender<()>) {
    let mut client = TenantProvisioningClient::new(crate::fixture::channel(&address).await);
    for number in 0.. {
        let request = request(round, caller, number);
        let answer = client.create_fully_provisioned(request.clone()).await.map(tonic::Response::into_inner).ok();
        let is_over = answer.is_none();
        answers.lock().await.push((request, answer));
        if is_over {
            return;
        }
        // Nobody counts any more once the server is killed.
        let _ = answered.send(()).await;
    }
}

async fn kill_and_repeat(kills: u32) {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let start = || {
        Program::start(
            turnkey(folder.path()).args(["--listen", "127.0.0.1:0"]).env("DATABASE_URL", url(&database.server)),
        )
    };
    let pool = sqlx::PgPool::connect_with(database.superuser.clone()).await.unwrap();
    let mut program = start();
    let mut address = program.address();
    for round in 0..kills {
        let answers = Answers::default();
        let (answered, mut count) = mpsc::channel(1);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(call_until_the_end(address.clone(), round, caller, Arc::clone(&answers), answered.clone()));
        }
        drop(answered);
        for _ in 0..random.random_range(1..60) {
            count.recv().await.unwrap();
        }
        program.signal(Signal::SIGKILL);
        drop(count);
        callers.join_all().await;

        program = start();
        address = program.address();
        let mut client = TenantProvisioningClient::new(crate::fixture::channel(&address).await);
        for (request, answer) in answers.lock().await.drain(..) {
            let again = client.create_fully_provisioned(request).await.unwrap().into_inner();
            if let Some(answer) = answer {
                assert_eq!(again, CreateFullyProvisionedResponse { replayed: true, ..answer });
            }
            let key = VerifyApiKeyRequest { secret_key: again.secret_key };
            let owner = client.verify_api_key(key).await.unwrap().into_inner().tenant_id;
            assert_eq!(owner, again.tenant.unwrap().id);
        }
    }
    let orphans: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM tenants
          WHERE (SELECT count(*) FROM segments WHERE tenant_id = tenants.id) <> 1
             OR (SELECT count(*) FROM packages WHERE tenant_id = tenants.id) <> 3
             OR (SELECT count(*) FROM api_keys WHERE tenant_id = tenants.id) <> 1",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(orphans, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing_that_was_answered_and_leave_nothing_half() {
    kill_and_repeat(20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute or two: make soak"]
async fn soak_two_hundred_kills_lose_nothing_that_was_answered_and_leave_nothing_half() {
    kill_and_repeat(200).await;
}
