//! Values that two tenants of the old database have, although they must be unique in the new one: addresses that differ
//! in case only, keys with the same digits, and new slugs that another tenant has.
//!
//! No tenant is preferred: all that have such a value are refused. Each value takes 16 bytes while duplicates are
//! searched for, which is 64 MB for a million tenants.

use std::{collections::HashSet, pin::pin};

use futures_util::TryStreamExt as _;

use super::{old_database::OldDatabase, renames::Renames};
use crate::{
    cli::Error,
    domain::{
        Violations,
        adoption::{UniqueField, UniqueFields, UniqueValueHash},
    },
};

pub struct Duplicates {
    /// The tenants that were read.
    pub tenants: u64,
    hashes: HashSet<UniqueValueHash>,
    /// Slugs to be renamed that no tenant has.
    pub unused_renames: Vec<String>,
}

impl Duplicates {
    pub async fn find(old: &mut OldDatabase, renames: &Renames) -> Result<Self, Error> {
        let mut unused_renames = renames.old_slugs();
        let expected = old.count_tenants().await?;
        let (mut tenants, mut hashes) = (0, Vec::with_capacity(expected.saturating_mul(UniqueFields::COUNT)));
        {
            let mut rows = pin!(old.unique_columns());
            while let Some(row) = rows.try_next().await? {
                tenants += 1;
                unused_renames.remove(row.slug.as_str());
                let new_slug = renames.new_slug(&row.slug);
                let unique = UniqueFields::parse(
                    &row.slug,
                    new_slug,
                    row.email.as_deref(),
                    &row.api_key_public,
                    &row.api_key_secret,
                    &mut Violations::default(),
                );
                hashes.extend(unique.hashes().map(|(_field, hash)| hash));
            }
        }
        hashes.sort_unstable();
        let repeated = hashes.array_windows().filter(|[one, next]| one == next).map(|[hash, _]| *hash);
        let mut unused_renames: Vec<String> = unused_renames.into_iter().map(str::to_owned).collect();
        unused_renames.sort_unstable();
        Ok(Self { tenants, hashes: repeated.collect(), unused_renames })
    }

    /// Returns the fields of a tenant whose values another tenant has, too.
    pub fn of(&self, unique: &UniqueFields) -> impl Iterator<Item = UniqueField> {
        unique.hashes().filter(|(_field, hash)| self.hashes.contains(hash)).map(|(field, _hash)| field)
    }
}
