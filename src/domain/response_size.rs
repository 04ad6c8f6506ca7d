//! The size of responses to batches. Lists have pages instead ([`super::paging`]).

use super::{
    external_id::ExternalId,
    labels::Labels,
    package::Package,
    text::DisplayName,
    validation::{InvalidValue, Reason},
};

/// Upper bound of a response in bytes: what gRPC clients accept by default.
pub const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// Upper bound of the parts of a package in a response that do not vary much: ids, numbers, times, and the tags and
/// lengths of all fields. A test compares it with the encoded message.
const PACKAGE_OVERHEAD: usize = 360;

/// Returns an upper bound of the bytes of a response with these packages.
pub fn packages_response_bytes<'a>(packages: impl Iterator<Item = &'a Package>) -> usize {
    let texts = |package: &Package| {
        let external_id = package.external_id.as_ref().map_or(0, String::len);
        package.slug.len() + package.name.len() + package.description.len() + external_id
    };
    packages.map(|package| PACKAGE_OVERHEAD + texts(package)).sum()
}

/// A batch whose new tenants and replays have as many bytes of texts is refused: with the other fields, its response
/// could exceed 4 MiB. The database measures replays up to the same bound, so that a batch that was accepted can be
/// repeated.
pub const MAX_BATCH_TEXT_BYTES: usize = MAX_RESPONSE_BYTES / 2;

/// Upper bound of the bytes of the default texts of a tenant, and of its empty branding as the database counts it.
const DEFAULT_TEXTS: usize = 512;

/// Returns an upper bound of the bytes of all texts of a new tenant, as the database measures them for a replay.
pub fn new_tenant_text_bytes(name: &DisplayName, external_id: Option<&ExternalId>, labels: &Labels) -> usize {
    let external_id = external_id.map_or(0, |id| id.as_str().len());
    DEFAULT_TEXTS + name.as_str().len() + external_id + labels.json_bytes()
}

/// Returns the violation of a batch whose response would be too large.
pub fn response_too_large() -> InvalidValue {
    InvalidValue::new(Reason::TooLong, "must be split into several calls: the response would exceed 4 MiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_a_new_tenant_are_its_name_external_id_and_labels_and_the_defaults() {
        let name = DisplayName::parse("Bella").unwrap();
        let external_id = ExternalId::parse("crm-4711").unwrap();
        let none = Labels::default();
        assert_eq!(new_tenant_text_bytes(&name, None, &none), DEFAULT_TEXTS + 5 + 2);
        let labels = Labels::parse([("a".to_owned(), "é".to_owned())].into()).unwrap();
        assert_eq!(labels.json_bytes(), 2 + 1 + 2 + 8);
        assert_eq!(new_tenant_text_bytes(&name, Some(&external_id), &labels), DEFAULT_TEXTS + 5 + 8 + 13);
    }
}
