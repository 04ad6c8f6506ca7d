//! Adopts tenants of the platform's old database. The command `adopt` reads them; there is no RPC for this.

use std::sync::Arc;

use super::{
    TenantService,
    batch::run_each,
    change_log,
    ids::{new_id, system_rng},
    retry::retry_on_conflict,
};
use crate::{
    domain::{
        Actor, ExternalId, TenantSlug,
        adoption::{Adoption, AdoptionContext, OldTenant, ParsedTenant, UniqueFields},
    },
    error::Result,
    store::{AdoptionOutcome, ExistingParts},
};

impl TenantService {
    /// Parses an old tenant, and creates the ids that it will have.
    pub fn parse_old_tenant(&self, old: OldTenant, new_slug: Option<&TenantSlug>) -> ParsedTenant {
        let mut new_id = |time| new_id(time, &mut system_rng());
        old.adopt(AdoptionContext { new_slug, now: self.clock.now(), new_id: &mut new_id })
    }

    /// Returns what the database has of each of these old tenants, in their order.
    pub async fn find_adopted(&self, tenants: &[(ExternalId, UniqueFields)]) -> Result<Vec<ExistingParts>> {
        self.store.find_adopted(tenants).await
    }

    /// Inserts each tenant completely or not at all. An item that fails does not affect the others. The outcomes are in
    /// the order of the items.
    pub async fn batch_adopt_tenants(
        &self,
        actor: &Actor,
        adoptions: &[Arc<Adoption>],
    ) -> Vec<Result<AdoptionOutcome>> {
        let now = self.clock.now();
        run_each(adoptions, |adoption| async move {
            let outcome = retry_on_conflict(|| self.store.adopt_tenant(actor, adoption, now)).await?;
            if outcome == AdoptionOutcome::Adopted {
                change_log::tenant_adopted(adoption);
            }
            Ok(outcome)
        })
        .await
    }
}
