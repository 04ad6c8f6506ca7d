//! Clients that make random calls for one tenant, over gRPC and HTTP, and record what they called and received.

mod calls;
mod catalog;
mod choice;
mod owners;
mod servers;
mod views;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, RngExt as _, rngs::StdRng};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::time::{sleep, timeout};
use tonic::Status;
use turnkey::grpc::pb::OwnerTokenPurpose;
use uuid::Builder;

pub use self::servers::Servers;
use self::views::refusal;
use super::{
    history::{Call, History, ItemView, Outcome, Response, tick},
    model::Origin,
};
use crate::support::{connect::Transport, requests::PASSWORD};

/// A call without a response within this time never gets one.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// What a client learned from its responses.
struct Known {
    tenant_id: String,
    etag: Option<String>,
    is_deleted: bool,
    is_purged: bool,
    owner: Option<String>,
    /// The last one that was right.
    password: String,
    keys: BTreeMap<String, String>,
    packages: BTreeMap<String, ItemView>,
    segments: BTreeMap<String, ItemView>,
}

impl Known {
    fn of_tenant(tenant_id: &str) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            etag: None,
            is_deleted: false,
            is_purged: false,
            owner: None,
            password: PASSWORD.to_owned(),
            keys: BTreeMap::new(),
            packages: BTreeMap::new(),
            segments: BTreeMap::new(),
        }
    }

    fn learn(&mut self, call: &Call, response: &Response) {
        if let Response::Created { tenant, secret, .. } = response {
            if tenant.id != self.tenant_id {
                *self = Self::of_tenant(&tenant.id);
            }
            if let Some(secret) = secret {
                let public_key = secret.rsplit_once('_').unwrap().0.replacen("sk_", "pk_", 1);
                self.keys.insert(public_key, secret.clone());
            }
        }
        match response {
            Response::Tenant(tenant) | Response::Created { tenant, .. } => {
                self.etag = Some(tenant.etag.clone());
                self.is_deleted = tenant.is_deleted;
                self.owner.clone_from(&tenant.owner);
            }
            Response::Empty if *call == Call::Purge => self.is_purged = true,
            Response::Key { public_key, secret: Some(secret), .. } => {
                self.keys.insert(public_key.clone(), secret.clone());
            }
            Response::Upserted(results) => {
                let is_segment = matches!(call, Call::UpsertSegment { .. });
                let known = if is_segment { &mut self.segments } else { &mut self.packages };
                known.extend(results.iter().map(|(_, item)| (item.slug.clone(), item.clone())));
            }
            Response::Items(items) => {
                let known = if *call == Call::ListSegments { &mut self.segments } else { &mut self.packages };
                *known = items.iter().map(|item| (item.slug.clone(), item.clone())).collect();
            }
            _ => {}
        }
        if let (Call::SetOwner { password: Some(password), .. }, _)
        | (
            Call::ResetPassword { new_password: password, .. } | Call::ChangePassword { new: password, .. },
            Response::Owner(Some(_)),
        ) = (call, response)
        {
            self.password.clone_from(password);
        }
    }
}

/// The tokens of owners, which all clients of a tenant know, so that two can use the same one.
#[derive(Clone, Default)]
pub struct Tokens(Arc<Mutex<Vec<(OwnerTokenPurpose, String)>>>);

impl Tokens {
    /// One of the last three.
    fn any(&self, random: &mut StdRng) -> Option<(OwnerTokenPurpose, String)> {
        let tokens = self.0.lock().unwrap();
        tokens.iter().rev().nth(random.random_range(0..tokens.len().clamp(1, 3))).cloned()
    }
}

/// A number that no other call has.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn new_request_id(random: &mut StdRng) -> String {
    let mut bytes = [0; 16];
    random.fill_bytes(&mut bytes);
    Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// What the clients of a tenant have in common.
#[derive(Clone)]
pub struct Common {
    pub servers: Servers,
    pub origin: Origin,
    /// Of the creation.
    pub request_id: String,
    pub history: History,
    pub tokens: Tokens,
    /// Whether the tenant is damaged and repaired. Such a tenant is not purged.
    pub is_damaged_at_times: bool,
}

pub struct Client {
    random: StdRng,
    common: Common,
    known: Known,
}

impl Client {
    pub fn new(random: StdRng, common: Common) -> Self {
        Self { random, common, known: Known::of_tenant("") }
    }

    /// The tenant that it created, or that was created by the call that it repeated.
    pub fn tenant_id(&self) -> &str {
        &self.known.tenant_id
    }

    /// Creates the tenant, as the other clients do, and then makes this many random calls.
    pub async fn run(&mut self, calls: u32, on_call: impl Fn()) {
        self.call_until_answered(Call::Create).await;
        if self.known.tenant_id.is_empty() {
            // The owner's password was replaced before this client received a response.
            return;
        }
        for _ in 0..calls {
            match self.random_call() {
                call @ (Call::CreateKey { .. } | Call::Rotate { .. }) => self.call_until_answered(call).await,
                call => {
                    self.call(call).await;
                }
            }
            on_call();
        }
    }

    /// Reads everything.
    pub async fn read_all(&mut self) {
        for call in [Call::GetTenant, Call::ListKeys, Call::ListPackages, Call::ListSegments] {
            self.call_until_answered(call).await;
        }
        for public_key in self.known.keys.keys().cloned().collect::<Vec<_>>() {
            self.call_until_answered(Call::VerifyKey { public_key }).await;
        }
        for call in self.log_ins() {
            self.call_until_answered(call).await;
        }
    }

    /// Lets the client know the keys of another one of the same tenant.
    pub fn learn_from(&mut self, other: &Self) {
        self.known.keys.extend(other.known.keys.clone());
    }

    async fn call_until_answered(&mut self, call: Call) {
        while self.call(call.clone()).await == Outcome::Unknown {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn call(&mut self, call: Call) -> Outcome {
        let (invoked, tenant_id) = (tick(), self.known.tenant_id.clone());
        let transport = self.common.servers.pick(&mut self.random);
        let result = timeout(CALL_TIMEOUT, self.send(&call, transport)).await;
        let outcome = result
            .unwrap_or_else(|_elapsed| Err(Status::cancelled("no response")))
            .unwrap_or_else(|status| refusal(&status));
        if let Outcome::Ok(response) = &outcome {
            self.known.learn(&call, response);
            if let (Call::CreateOwnerToken { purpose, .. }, Response::Token(Some(token))) = (&call, response) {
                self.common.tokens.0.lock().unwrap().push((*purpose, token.clone()));
            }
        }
        if let Outcome::Ok(Response::Repaired { tenant, .. }) = &outcome {
            // A repair reads the tenant in a statement of its own.
            let read = Outcome::Ok(Response::Tenant(tenant.clone()));
            self.common.history.record(tenant_id.clone(), Call::GetTenant, read, invoked);
        }
        self.common.history.record(tenant_id, call, outcome.clone(), invoked);
        outcome
    }

    async fn send(&mut self, call: &Call, transport: Transport) -> Result<Outcome, Status> {
        match call {
            Call::Create => self.create(transport).await,
            Call::Damage => Ok(self.damage().await),
            Call::UpsertPackages { .. }
            | Call::DeletePackage { .. }
            | Call::UpsertSegment { .. }
            | Call::DeleteSegment { .. }
            | Call::ListPackages
            | Call::ListSegments => self.send_to_catalog(call, transport).await,
            Call::CreateKey { .. }
            | Call::Rotate { .. }
            | Call::Revoke { .. }
            | Call::ListKeys
            | Call::VerifyKey { .. } => self.send_about_keys(call, transport).await,
            Call::SetOwner { .. }
            | Call::CreateOwnerToken { .. }
            | Call::ResetPassword { .. }
            | Call::VerifyEmail { .. }
            | Call::ChangePassword { .. }
            | Call::VerifyPassword { .. } => self.send_about_owner(call, transport).await,
            Call::Rename { .. }
            | Call::SetActive(_)
            | Call::Delete { .. }
            | Call::Undelete
            | Call::Purge
            | Call::Repair
            | Call::GetTenant => self.send_about_tenant(call, transport).await,
        }
    }

    /// Deletes the packages as a superuser in psql can, but with the tenant's lock: the service reads and writes
    /// packages in one statement only under the lock.
    async fn damage(&self) -> Outcome {
        let id = &self.known.tenant_id;
        let sql = format!(
            "SET session_replication_role = replica;
             BEGIN;
             SELECT pg_advisory_xact_lock(tenant_lock_key('{id}'));
             DELETE FROM packages WHERE tenant_id = '{id}';
             COMMIT"
        );
        let deleted = async {
            let mut connection = self.common.servers.superuser().connect().await?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
            connection.close().await
        };
        deleted.await.map_or(Outcome::Unknown, |()| Outcome::Ok(Response::Empty))
    }
}
