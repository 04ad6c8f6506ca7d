//! A tenant's life after its creation.

use super::{TenantService, retry::retry_on_conflict};
use crate::{
    domain::{ListTenants, Tenant, TenantChange, TenantId, TenantIdentifier, paging::Page},
    error::{Error, Resource, Result},
};

impl TenantService {
    /// # Errors
    /// [`Error::NotFound`]; those of the store.
    pub async fn get_tenant(&self, identifier: TenantIdentifier) -> Result<Tenant> {
        let found = self.store.get_tenant(&identifier, self.clock.now()).await?;
        found.ok_or(Error::not_found(Resource::Tenant))
    }

    /// # Errors
    /// Those of the store.
    pub async fn list_tenants(&self, list: ListTenants) -> Result<Page<Tenant>> {
        let rows = if list.filter.has_valid_prefix() {
            self.store.list_tenants(&list, list.size.get() + 1, self.clock.now()).await?
        } else {
            Vec::new()
        };
        Ok(Page::from_rows(rows, list.size, &list.filter.page_token_scope(), Tenant::position))
    }

    /// # Errors
    /// [`Error::NotFound`]; for a deleted tenant too, unless the change is to delete or undelete it.
    pub async fn change_tenant(&self, tenant_id: TenantId, change: TenantChange) -> Result<Tenant> {
        retry_on_conflict(|| self.store.change_tenant(tenant_id, &change, self.clock.now())).await
    }
}
