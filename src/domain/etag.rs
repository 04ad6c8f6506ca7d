//! Etags: opaque texts that identify the state of a resource, so that a call can change it only if it is still as the
//! caller read it (AIP-154). How they change is in docs/adr/0020-etags-are-revisions.md.

use std::fmt;

use uuid::Uuid;

/// The revision of a resource, and that of its owner for a tenant with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Etag {
    pub revision: Uuid,
    pub owner_revision: Option<Uuid>,
}

impl Etag {
    /// Matches no resource.
    const UNKNOWN: Self = Self { revision: Uuid::nil(), owner_revision: None };
    /// The length of a revision: a UUID without hyphens.
    const REVISION_LENGTH: usize = 32;

    /// Returns the etag of the resource with this id. The revision of a resource that has never changed is its id.
    pub fn new(id: Uuid, revision: Option<Uuid>) -> Self {
        Self { revision: revision.unwrap_or(id), owner_revision: None }
    }

    /// Reads an etag from a request. Any text is valid: one that no resource has had matches none.
    pub fn parse(text: &str) -> Self {
        let parse = || {
            let (revision, owner_revision) = text.split_at_checked(Self::REVISION_LENGTH)?;
            let owner_revision = Some(owner_revision).filter(|text| !text.is_empty());
            Some(Self {
                revision: revision.parse().ok()?,
                owner_revision: owner_revision.map(Uuid::try_parse).transpose().ok()?,
            })
        };
        parse().filter(|etag: &Self| etag.to_string() == text).unwrap_or(Self::UNKNOWN)
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.revision.simple())?;
        self.owner_revision.map_or(Ok(()), |owner_revision| write!(f, "{}", owner_revision.simple()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_etag_parses_to_itself_and_every_other_text_matches_no_resource(
            revision in 1..u128::MAX, owner in proptest::option::of(any::<u128>()), other in "\\PC{0,70}"
        ) {
            let (revision, owner_revision) = (Uuid::from_u128(revision), owner.map(Uuid::from_u128));
            let etag = Etag { revision, owner_revision };
            prop_assert_eq!(Etag::parse(&etag.to_string()), etag);
            prop_assert_eq!(Etag::parse(&other), Etag::UNKNOWN);
            prop_assert_eq!(Etag::parse(&revision.to_string()), Etag::UNKNOWN, "with hyphens");
        }
    }
}
