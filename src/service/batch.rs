//! Many tenants in one statement, each for itself.

use std::collections::HashSet;

use super::{TenantService, provisioning::TenantSpec};
use crate::{
    domain::{
        Caller, CreateFullyProvisioned, ProvisioningSource, RequestId, TenantSlug, Violations,
        idempotency::{Bytes32, IdempotencyScope, IdempotentRpc},
        provisioning::CreateOutcome,
    },
    error::{Error, Precondition, Result},
};

/// A wish and its place in the batch.
type Placed = (usize, TenantSpec);

impl TenantService {
    /// Makes each tenant whole or not at all; one that cannot be made spoils no other. The outcomes are in the order of
    /// the items.
    ///
    /// Where two have one slug, or one request id, the second waits for the outcome of the first and then fares as if it
    /// had been called after it: its slug is taken, or it is a repeat.
    ///
    /// # Errors
    /// Those that befall all: of the hasher and of the store.
    pub async fn batch_create_fully_provisioned(
        &self,
        caller: Caller,
        flow: ProvisioningSource,
        items: Vec<std::result::Result<CreateFullyProvisioned, Violations>>,
    ) -> Result<Vec<Result<CreateOutcome>>> {
        let scope = IdempotencyScope { caller, rpc: IdempotentRpc::CreateFullyProvisioned };
        let mut outcomes: Vec<Option<Result<CreateOutcome>>> = Vec::with_capacity(items.len());
        let mut waiting: Vec<Placed> = Vec::with_capacity(items.len());
        for (place, item) in items.into_iter().enumerate() {
            outcomes.push(match item {
                Ok(spec) => {
                    waiting.push((place, spec.into()));
                    None
                }
                Err(violations) => Some(Err(violations.into())),
            });
        }
        let mut taken = HashSet::new();
        while !waiting.is_empty() {
            let (places, turn, later) = next_turn(waiting, &taken);
            waiting = later;
            let outcomes_of_turn = self.provision(&scope, flow, &turn).await?;
            for ((place, spec), outcome) in places.into_iter().zip(turn).zip(outcomes_of_turn) {
                // Whatever else came of it, its slug is somebody's now.
                if !matches!(outcome, Err(Error::FailedPrecondition(Precondition::RequestIdReused))) {
                    taken.insert(spec.slug);
                }
                outcomes[place] = Some(outcome);
            }
        }
        let no_outcome = || Err(Error::internal("an item of a batch had no outcome"));
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(no_outcome)).collect())
    }
}

/// Of those that wait, the first of each slug and each request id, in an order that all batches keep, so that no two wait
/// for each other; and the rest. A slug that is known to be taken stands in nobody's way.
fn next_turn(waiting: Vec<Placed>, taken: &HashSet<TenantSlug>) -> (Vec<usize>, Vec<TenantSpec>, Vec<Placed>) {
    let mut slugs = HashSet::new();
    let mut request_ids: HashSet<Bytes32> = HashSet::new();
    let mut later = Vec::new();
    let mut turn = Vec::with_capacity(waiting.len());
    for (place, spec) in waiting {
        let hash = spec.request_id.as_ref().map(RequestId::hash);
        let is_repeated = (!taken.contains(&spec.slug) && slugs.contains(&spec.slug))
            || hash.is_some_and(|hash| request_ids.contains(&hash));
        slugs.insert(spec.slug.clone());
        request_ids.extend(hash);
        if is_repeated { later.push((place, spec)) } else { turn.push((place, spec)) }
    }
    turn.sort_by(|(_, one), (_, other)| one.slug.cmp(&other.slug));
    let (places, turn) = turn.into_iter().unzip();
    (places, turn, later)
}
