//! Reads, lists and changes tenants.

use super::{TenantService, change_log, retry::retry_on_conflict};
use crate::{
    domain::{
        Actor, InvalidValue, ListTenants, Reason, Slug, Tenant, TenantChange, TenantId, TenantIdentifier, TenantUpdate,
        UpdateTenant, Violations, tenant::ListedTenants,
    },
    error::{Error, Precondition, Resource, Result},
    store::PurgeOutcome,
};

/// How many times a patch is applied to a branding that concurrent calls change.
const MAX_PATCH_ATTEMPTS: usize = 10;

impl TenantService {
    /// Returns the tenant, deleted or not.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_tenant(&self, identifier: TenantIdentifier) -> Result<Tenant> {
        let found = self.store.get_tenant(&identifier, self.clock.now()).await?;
        found.ok_or(Error::not_found(Resource::Tenant))
    }

    /// Returns one page of tenants.
    pub async fn list_tenants(&self, list: ListTenants) -> Result<ListedTenants> {
        // Before the rows are read, so that no change is between the two.
        let cursor = if list.is_first_page() { Some(self.store.last_event_position().await?) } else { None };
        let rows = if list.order.has_valid_prefix() {
            self.store.list_tenants(&list, list.size.get() + 1, self.clock.now()).await?
        } else {
            Vec::new()
        };
        Ok(ListedTenants { page: list.page(rows), cursor })
    }

    /// Erases a deleted tenant and everything that refers to it, permanently.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Precondition::TenantNotDeleted`]; [`Error::InvalidRequest`] for another slug.
    pub async fn purge_tenant(&self, tenant_id: TenantId, confirmed: Slug, actor: Actor) -> Result<()> {
        let purge = || self.store.purge_tenant(tenant_id, &confirmed, &actor, self.clock.now());
        match retry_on_conflict(purge).await? {
            PurgeOutcome::Purged => {
                change_log::tenant_purged(tenant_id);
                Ok(())
            }
            PurgeOutcome::NotFound => Err(Error::not_found(Resource::Tenant)),
            PurgeOutcome::NotDeleted => Err(Precondition::TenantNotDeleted.into()),
            PurgeOutcome::OtherSlug => {
                let description = "must be the slug of the tenant";
                Err(Violations::single("confirm_slug", InvalidValue::new(Reason::BadFormat, description)).into())
            }
        }
    }

    /// Changes the present fields of the tenant and returns it.
    ///
    /// A patch is applied to the branding that was read, and stored if the tenant has not changed since. Without an
    /// etag of the caller, this is tried again a few times.
    ///
    /// # Errors
    /// As [`Self::change_tenant`], and [`Error::InvalidRequest`] if the patched branding exceeds its limits.
    pub async fn update_tenant(&self, tenant_id: TenantId, request: UpdateTenant, actor: Actor) -> Result<Tenant> {
        let UpdateTenant { update, branding_patch } = request;
        let Some(patch) = branding_patch else {
            return self.change_tenant(tenant_id, TenantChange::Update(update), actor).await;
        };
        for _ in 0..MAX_PATCH_ATTEMPTS {
            let tenant = self.get_tenant(TenantIdentifier::Id(tenant_id)).await?;
            if tenant.deleted_at.is_some() {
                return Err(Error::not_found(Resource::Tenant));
            }
            if update.etag.is_some_and(|etag| etag != tenant.etag) {
                return Err(Error::EtagMismatch(Resource::Tenant));
            }
            let branding = patch.apply(&tenant.branding).map_err(|invalid| {
                let mut violations = Violations::default();
                violations.add("branding_patch", invalid);
                violations
            })?;
            let patched = TenantUpdate { branding: Some(branding), etag: Some(tenant.etag), ..update.clone() };
            match self.change_tenant(tenant_id, TenantChange::Update(patched), actor.clone()).await {
                Err(Error::EtagMismatch(_)) if update.etag.is_none() => {}
                result => return result,
            }
        }
        Err(Error::Conflict)
    }

    /// Changes the tenant and returns it.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted tenant, unless the change is to delete or undelete it;
    /// [`Error::EtagMismatch`].
    pub async fn change_tenant(&self, tenant_id: TenantId, change: TenantChange, actor: Actor) -> Result<Tenant> {
        let now = self.clock.now();
        let tenant = retry_on_conflict(|| self.store.change_tenant(tenant_id, &change, &actor, now)).await?;
        change_log::tenant_changed(&tenant, &change, now);
        Ok(tenant)
    }
}
