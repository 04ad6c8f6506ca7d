//! Creates many tenants with few statements, each tenant independently of the others.

use std::collections::HashSet;

use super::{TenantService, provisioning::TenantSpec};
use crate::{
    domain::{
        Caller, CreateFullyProvisioned, ProvisioningSource, RequestId, TenantSlug, Violations,
        idempotency::{IdempotencyScope, IdempotentRpc},
        provisioning::CreateOutcome,
    },
    error::{Error, Precondition, Result},
};

/// An item of a batch and its position.
struct BatchItem {
    index: usize,
    spec: TenantSpec,
}

impl TenantService {
    /// Creates each tenant completely or not at all; one that cannot be created does not affect the others. The outcomes
    /// are in the order of the items.
    ///
    /// The second of two items with one slug, or one request id, is created after the first, as if it had been called
    /// after it: its slug already exists, or it is a replay.
    ///
    /// # Errors
    /// Only errors that affect all items. The errors of single items are among the outcomes.
    pub async fn batch_create_fully_provisioned(
        &self,
        caller: Caller,
        source: ProvisioningSource,
        items: Vec<std::result::Result<CreateFullyProvisioned, Violations>>,
    ) -> Result<Vec<Result<CreateOutcome>>> {
        let scope = IdempotencyScope { caller, rpc: IdempotentRpc::CreateFullyProvisioned };
        let mut outcomes: Vec<Option<Result<CreateOutcome>>> = Vec::with_capacity(items.len());
        let mut pending = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            outcomes.push(match item {
                Ok(request) => {
                    pending.push(BatchItem { index, spec: request.into() });
                    None
                }
                Err(violations) => Some(Err(violations.into())),
            });
        }
        let mut used_slugs = HashSet::new();
        while !pending.is_empty() {
            let (round, deferred) = next_conflict_free_round(pending, &used_slugs);
            pending = deferred;
            let (indexes, specs): (Vec<usize>, Vec<TenantSpec>) =
                round.into_iter().map(|item| (item.index, item.spec)).unzip();
            let round_outcomes = self.provision_tenants(&scope, source, &specs).await?;
            for ((index, spec), outcome) in indexes.into_iter().zip(specs).zip(round_outcomes) {
                // After any other outcome, a tenant with this slug exists.
                if !matches!(outcome, Err(Error::FailedPrecondition(Precondition::RequestIdReused))) {
                    used_slugs.insert(spec.slug);
                }
                outcomes[index] = Some(outcome);
            }
        }
        let no_outcome = || Err(Error::internal("an item of a batch had no outcome"));
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(no_outcome)).collect())
    }
}

/// Splits pending items into one conflict-free round (the first of each slug and request id, sorted by slug to avoid
/// deadlocks between batches) and the rest. Items whose slug is in `used_slugs` cannot conflict: they are not inserted.
fn next_conflict_free_round(
    pending: Vec<BatchItem>,
    used_slugs: &HashSet<TenantSlug>,
) -> (Vec<BatchItem>, Vec<BatchItem>) {
    let (mut slugs, mut request_ids) = (HashSet::new(), HashSet::new());
    let (mut round, mut deferred) = (Vec::with_capacity(pending.len()), Vec::new());
    for item in pending {
        let hash = item.spec.request_id.as_ref().map(RequestId::hash);
        let is_new_slug = slugs.insert(item.spec.slug.clone()) || used_slugs.contains(&item.spec.slug);
        let is_new_request_id = hash.is_none_or(|hash| request_ids.insert(hash));
        if is_new_slug && is_new_request_id { round.push(item) } else { deferred.push(item) }
    }
    round.sort_by(|one, other| one.spec.slug.cmp(&other.spec.slug));
    (round, deferred)
}
