//! The size of responses to batches. Lists have pages instead ([`super::paging`]).

use super::{
    package::Package,
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

/// Returns the violation of a batch whose response would be too large.
pub fn response_too_large() -> InvalidValue {
    InvalidValue::new(Reason::TooLong, "must be split into several calls: the response would exceed 4 MiB")
}
