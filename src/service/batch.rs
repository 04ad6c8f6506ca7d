//! Creates many tenants, each independently of the others. `provisioning.rs` creates them. Also has what all batches
//! share.

use std::sync::OnceLock;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use std::collections::HashSet;

use super::{TenantService, provisioning::TenantSpec};
use crate::{
    domain::{
        Actor, CreateFullyProvisioned, ProvisioningSource, Violations,
        idempotency::{IdempotencyScope, IdempotentRpc},
        provisioning::CreateOutcome,
        response_size,
    },
    error::{Error, Result},
};

/// How many items of a batch are worked on at a time: enough for the statements that can run at a time.
const BATCH_WINDOW: usize = 64;

impl TenantService {
    /// Creates each tenant completely or not at all. An item that fails does not affect the others. The outcomes are in
    /// the order of the items.
    ///
    /// Of two items with the same slug or request id, the second has the outcome of a call after the first: its slug
    /// already exists, or it is a replay.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if the response would be too large, and the error of an item that is not its own fault
    /// if no item has succeeded. Otherwise the error of an item is its outcome: the keys of the others must not be
    /// lost.
    pub async fn batch_create_fully_provisioned(
        &self,
        actor: Actor,
        source: ProvisioningSource,
        items: Vec<std::result::Result<CreateFullyProvisioned, Violations>>,
    ) -> Result<Vec<Result<CreateOutcome>>> {
        let scope = IdempotencyScope { actor, rpc: IdempotentRpc::CreateFullyProvisioned };
        let items: Vec<_> = items.into_iter().map(|item| item.map(TenantSpec::from)).collect();
        let valid: Vec<&TenantSpec> = items.iter().flatten().collect();
        // Fails before anything is created if the tenants and replays are too large for a response.
        let records = self.find_records(&scope, valid.iter().copied()).await?;
        let replayed: HashSet<_> = records.iter().map(|record| record.request_hash).collect();
        let is_new = |spec: &&&TenantSpec| {
            spec.request_id.as_ref().is_none_or(|request_id| !replayed.contains(&request_id.hash()))
        };
        let new_bytes: usize = valid.iter().filter(is_new).map(|spec| spec.text_bytes()).sum();
        let replayed_bytes: usize = records.iter().map(|record| record.created.text_bytes).sum();
        if valid.len() > 1 && new_bytes + replayed_bytes >= response_size::MAX_BATCH_TEXT_BYTES {
            return Err(response_too_large("requests"));
        }
        let mut created = self.provision_tenants(&scope, source, &valid).await?.into_iter();
        let outcome = |item: std::result::Result<TenantSpec, Violations>| match item {
            Ok(_valid) => created.next().unwrap_or_else(|| Err(Error::internal("an item of the batch has no outcome"))),
            Err(violations) => Err(violations.into()),
        };
        fail_if_none_succeeded(items.into_iter().map(outcome).collect())
    }
}

/// Fails if no item has succeeded and one of them failed without its own fault.
fn fail_if_none_succeeded<T>(outcomes: Vec<Result<T>>) -> Result<Vec<Result<T>>> {
    let failure = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).find(|error| is_failure(error));
    match failure {
        Some(error) if !outcomes.iter().any(Result::is_ok) => Err(error.clone()),
        _ => Ok(outcomes),
    }
}

/// Does the work of each item, a bounded number of them at a time, and returns its result. Once the database is
/// unavailable or overloaded, the remaining items have this error, too.
pub(super) async fn run_each<'a, Item, T, Work>(items: &'a [Item], work: impl Fn(&'a Item) -> Work) -> Vec<Result<T>>
where
    Work: Future<Output = Result<T>>,
{
    let (window, outage) = (Semaphore::new(BATCH_WINDOW), OnceLock::new());
    let (window, outage, work) = (&window, &outage, &work);
    let results = items.iter().map(|item| async move {
        // Never closed.
        let _permit = window.acquire().await.map_err(Error::internal)?;
        if let Some(error) = outage.get() {
            return Err(Error::clone(error));
        }
        let result = work(item).await;
        if let Err(error @ (Error::DatabaseUnavailable(_) | Error::Overloaded)) = &result {
            let _ = outage.set(error.clone());
        }
        result
    });
    join_all(results).await
}

/// Whether the error is not the fault of its item.
const fn is_failure(error: &Error) -> bool {
    matches!(error, Error::DatabaseUnavailable(_) | Error::Overloaded | Error::Conflict | Error::Internal(_))
}

/// Returns the error of a batch in this field whose response would be too large.
pub(super) fn response_too_large(field: &str) -> Error {
    let mut violations = Violations::default();
    violations.add(field, response_size::response_too_large());
    violations.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fails_only_if_no_item_has_succeeded_and_one_failed_without_its_own_fault() {
        let (failure, own_fault) = (|| Err(Error::Overloaded), || Err(Error::PermissionDenied));
        for outcomes in [vec![failure()], vec![own_fault(), failure()]] {
            assert!(matches!(fail_if_none_succeeded::<()>(outcomes), Err(Error::Overloaded)));
        }
        for outcomes in [vec![], vec![own_fault()], vec![Ok(())], vec![failure(), Ok(()), own_fault()]] {
            let count = outcomes.len();
            assert_eq!(fail_if_none_succeeded(outcomes).unwrap().len(), count);
        }
    }
}
