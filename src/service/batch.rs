//! Creates many tenants with few statements, each tenant independently of the others. This file only decides which
//! items share a statement; `provisioning.rs` creates them.

use std::collections::HashSet;

use super::{TenantService, provisioning::TenantSpec};
use crate::{
    domain::{
        Caller, CreateFullyProvisioned, ProvisioningSource, RequestId, TenantSlug, Violations,
        idempotency::{IdempotencyScope, IdempotentRpc},
        provisioning::CreateOutcome,
        response_size,
    },
    error::{Error, Precondition, Result},
};

/// A valid item of a batch, and its position in the request.
struct BatchItem {
    index: usize,
    spec: TenantSpec,
}

impl TenantService {
    /// Creates each tenant completely or not at all. An item that fails does not affect the others. The outcomes are in
    /// the order of the items.
    ///
    /// Of two items with the same slug or request id, the second has the outcome of a call after the first: its slug
    /// already exists, or it is a replay.
    ///
    /// # Errors
    /// Only errors that affect all items, such as [`Error::InvalidRequest`] if the response would be too large. The error
    /// of a single item is its outcome.
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
        // Fails before anything is created if this batch has too many large replays for a response.
        self.find_records(&scope, pending.iter().map(|item| &item.spec)).await?;
        let mut used_slugs = HashSet::new();
        while !pending.is_empty() {
            let (round, deferred) = next_conflict_free_round(pending, &used_slugs);
            pending = deferred;
            let specs: Vec<&TenantSpec> = round.iter().map(|item| &item.spec).collect();
            let round_outcomes = self.provision_tenants(&scope, source, &specs).await?;
            for (item, outcome) in round.into_iter().zip(round_outcomes) {
                // After any other outcome, a tenant with this slug exists.
                if !matches!(outcome, Err(Error::FailedPrecondition(Precondition::RequestIdReused))) {
                    used_slugs.insert(item.spec.slug);
                }
                outcomes[item.index] = Some(outcome);
            }
        }
        let no_outcome = || Err(Error::internal("an item of the batch has no outcome"));
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(no_outcome)).collect())
    }
}

/// Returns the error of a batch in this field whose response would be too large.
pub(super) fn response_too_large(field: &str) -> Error {
    let mut violations = Violations::default();
    violations.add(field, response_size::response_too_large());
    violations.into()
}

/// Splits pending items into one conflict-free round (the first of each slug and request id, sorted by slug to avoid
/// deadlocks between batches) and the rest. Items whose slug is in `used_slugs` have no conflict over it, because they
/// are not inserted.
fn next_conflict_free_round(
    pending: Vec<BatchItem>,
    used_slugs: &HashSet<TenantSlug>,
) -> (Vec<BatchItem>, Vec<BatchItem>) {
    let (mut slugs, mut request_ids) = (HashSet::new(), HashSet::new());
    let (mut round, mut deferred) = (Vec::with_capacity(pending.len()), Vec::new());
    for item in pending {
        let request_hash = item.spec.request_id.as_ref().map(RequestId::hash);
        let slug_is_first = slugs.insert(item.spec.slug.clone()) || used_slugs.contains(&item.spec.slug);
        let request_id_is_first = request_hash.is_none_or(|hash| request_ids.insert(hash));
        if slug_is_first && request_id_is_first { round.push(item) } else { deferred.push(item) }
    }
    round.sort_by(|one, other| one.spec.slug.cmp(&other.spec.slug));
    (round, deferred)
}
