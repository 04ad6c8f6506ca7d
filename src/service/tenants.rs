//! Reads, lists and changes tenants.

use super::{TenantService, change_log, retry::retry_on_conflict};
use crate::{
    domain::{Actor, ListTenants, Tenant, TenantChange, TenantId, TenantIdentifier, tenant::ListedTenants},
    error::{Error, Resource, Result},
};

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

    /// Changes the tenant and returns it.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted tenant, unless the change is to delete or undelete it.
    pub async fn change_tenant(&self, tenant_id: TenantId, change: TenantChange, actor: Actor) -> Result<Tenant> {
        let now = self.clock.now();
        let tenant = retry_on_conflict(|| self.store.change_tenant(tenant_id, &change, &actor, now)).await?;
        change_log::tenant_changed(&tenant, &change, now);
        Ok(tenant)
    }
}
