//! The tenants that a caller is limited to. How requests are checked against it is in `grpc/tenant_access.rs`.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    ids::TenantId,
    validation::{InvalidValue, Reason},
};

/// 1 to 100 tenants, in the order of their ids. Shared, because each call copies it. The bound keeps the queries that
/// contain them small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantLimit(Arc<[TenantId]>);

impl TenantLimit {
    const MAX_TENANTS: usize = 100;

    /// # Errors
    /// `MISSING_FIELD` without any tenant: an empty list could be taken for no limit. `TOO_LONG` for more than 100.
    pub fn new(tenants: impl IntoIterator<Item = TenantId>) -> Result<Self, InvalidValue> {
        let tenants: BTreeSet<TenantId> = tenants.into_iter().collect();
        match tenants.len() {
            0 => Err(InvalidValue::new(
                Reason::MissingField,
                "must have at least one id, or be left out for all tenants",
            )),
            1..=Self::MAX_TENANTS => Ok(Self(tenants.into_iter().collect())),
            _ => Err(InvalidValue::new(Reason::TooLong, "must have at most 100 ids")),
        }
    }

    pub fn one(tenant_id: TenantId) -> Self {
        Self(Arc::new([tenant_id]))
    }

    pub fn contains(&self, tenant_id: TenantId) -> bool {
        self.0.binary_search(&tenant_id).is_ok()
    }

    /// Returns the tenants in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn ids(numbers: impl IntoIterator<Item = u128>) -> Vec<TenantId> {
        numbers.into_iter().map(|number| TenantId::from_uuid(Uuid::from_u128(number))).collect()
    }

    #[test]
    fn a_limit_has_1_to_100_different_tenants() {
        assert_eq!(TenantLimit::new([]).unwrap_err().reason, Reason::MissingField);
        assert_eq!(TenantLimit::new(ids(0..101)).unwrap_err().reason, Reason::TooLong);
        assert_eq!(TenantLimit::new(ids((0..100).chain(0..100))).unwrap().iter().count(), 100);
        let limit = TenantLimit::new(ids([3, 1, 2, 1])).unwrap();
        assert_eq!(limit.iter().collect::<Vec<_>>(), ids(1..=3));
        assert!(ids(1..=3).into_iter().all(|id| limit.contains(id)));
        assert!(ids([0, 4]).into_iter().all(|id| !limit.contains(id)));
    }
}
