//! How the service may refuse, and what the contract asks of a field by itself.

use std::collections::BTreeSet;

use tonic::Code;
use turnkey::{domain::SlugStem, grpc::pb::PackageUpsert};

/// Field and reason of each.
pub type Violations = BTreeSet<(String, String)>;

/// The right answer; or refusals, any one of which is right.
pub type Answer<T> = Result<T, Vec<Refusal>>;

#[derive(Debug)]
pub enum Refusal {
    /// `INVALID_REQUEST` with all of the first violations and some of the second, perhaps.
    Invalid {
        must: Violations,
        may: Violations,
    },
    Other(Code, &'static str),
}

pub const NO_TENANT: Refusal = Refusal::Other(Code::NotFound, "TENANT_NOT_FOUND");
pub const NO_PACKAGE: Refusal = Refusal::Other(Code::NotFound, "PACKAGE_NOT_FOUND");
pub const NO_SEGMENT: Refusal = Refusal::Other(Code::NotFound, "SEGMENT_NOT_FOUND");
pub const PACKAGE_SLUG_TAKEN: Refusal = Refusal::Other(Code::AlreadyExists, "PACKAGE_SLUG_TAKEN");
pub const SEGMENT_SLUG_TAKEN: Refusal = Refusal::Other(Code::AlreadyExists, "SEGMENT_SLUG_TAKEN");
pub const LAST_PACKAGE: Refusal = Refusal::Other(Code::FailedPrecondition, "LAST_PACKAGE");
pub const DEFAULT_SEGMENT: Refusal = Refusal::Other(Code::FailedPrecondition, "DEFAULT_SEGMENT");
pub const SEGMENT_NOT_EMPTY: Refusal = Refusal::Other(Code::FailedPrecondition, "SEGMENT_NOT_EMPTY");

impl Refusal {
    pub fn is(&self, code: Code, reason: &str, told: &Violations) -> bool {
        match self {
            Self::Invalid { must, may } => {
                (code, reason) == (Code::InvalidArgument, "INVALID_REQUEST")
                    && must.is_subset(told)
                    && told.difference(must).all(|violation| may.contains(violation))
            }
            Self::Other(expected, why) => (code, reason) == (*expected, *why),
        }
    }
}

/// Notes what is wrong with a field, if anything.
pub fn note(violations: &mut Violations, field: impl Into<String>, fault: Option<&str>) {
    violations.extend(fault.map(|reason| (field.into(), reason.to_owned())));
}

/// Bad fields go before all else; of what stands against good ones, the contract does not say what is told.
pub fn decide(must: Violations, may: &Violations, lacks: Violations, mut refusals: Vec<Refusal>) -> Answer<()> {
    if !must.is_empty() {
        return Err(vec![Refusal::Invalid { must, may: may.union(&lacks).cloned().collect() }]);
    }
    if !lacks.is_empty() {
        refusals.push(Refusal::Invalid { must: lacks, may: Violations::new() });
    }
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// What is wrong with an item of a tenant that has nothing yet.
pub fn faults_of(item: &PackageUpsert, path: &str) -> Violations {
    let mut faults = Violations::new();
    let at = |field: &str| format!("{path}{field}");
    let (id, slug) = (item.package_id.as_deref(), item.slug.as_deref());
    let ((name_field, name), (price_field, price)) = (name_of(item), price_of(item));
    note(&mut faults, at("package_id"), id.and_then(bad_id));
    note(&mut faults, at("slug"), slug.and_then(bad_slug));
    note(&mut faults, at(name_field), bad_name_for(id, slug, name));
    note(&mut faults, at("description"), item.description.as_deref().and_then(bad_description));
    let bad_price = match price {
        None => must_create(id, slug).then_some("MISSING_FIELD"),
        Some(price) => (!(0..=1_000_000_000_000).contains(&price)).then_some("OUT_OF_RANGE"),
    };
    note(&mut faults, at(price_field), bad_price);
    note(&mut faults, at("booking_type"), (!(0..=2).contains(&item.booking_type)).then_some("BAD_FORMAT"));
    note(&mut faults, at("segment_id"), item.segment_id.as_deref().and_then(bad_id));
    faults
}

/// Nothing can be there under a bad slug, so that one can only be meant to create.
fn must_create(id: Option<&str>, slug: Option<&str>) -> bool {
    id.is_none() && slug.is_none_or(|slug| bad_slug(slug).is_some())
}

/// The name, under the field that gives it.
#[expect(deprecated, reason = "the old name is accepted for ever")]
pub fn name_of(item: &PackageUpsert) -> (&'static str, Option<&str>) {
    match (item.name.as_deref(), item.title.as_deref()) {
        (None, Some(title)) => ("title", Some(title)),
        (name, _) => ("name", name),
    }
}

/// The price, under the field that gives it.
#[expect(deprecated, reason = "the old name is accepted for ever")]
pub fn price_of(item: &PackageUpsert) -> (&'static str, Option<i64>) {
    match (item.base_price, item.price_cents) {
        (None, Some(cents)) => ("price_cents", Some(cents)),
        (price, _) => ("base_price", price),
    }
}

pub fn bad_id(id: &str) -> Option<&'static str> {
    let is_id = uuid::Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id);
    (!is_id).then_some("BAD_FORMAT")
}

pub fn bad_slug(slug: &str) -> Option<&'static str> {
    let letters_fit = slug.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let form_fits = slug.starts_with(|first: char| first.is_ascii_lowercase())
        && !slug.ends_with('-')
        && !slug.contains("--")
        && uuid::Uuid::try_parse(slug).is_err();
    match slug.len() {
        _ if !letters_fit => Some("BAD_FORMAT"),
        0..3 => Some("TOO_SHORT"),
        3..64 => (!form_fits).then_some("BAD_FORMAT"),
        64.. => Some("TOO_LONG"),
    }
}

pub fn bad_name(name: &str) -> Option<&'static str> {
    match name.trim().chars().count() {
        0 => Some("TOO_SHORT"),
        1..=200 => name.trim().chars().any(char::is_control).then_some("BAD_FORMAT"),
        _ => Some("TOO_LONG"),
    }
}

/// As [`bad_name`]; and what is surely to be created needs one, from which a slug can be made where there is none.
pub fn bad_name_for(id: Option<&str>, slug: Option<&str>, name: Option<&str>) -> Option<&'static str> {
    let Some(name) = name else { return must_create(id, slug).then_some("MISSING_FIELD") };
    let gives_no_slug = id.is_none() && slug.is_none() && SlugStem::from_name(name).is_err();
    bad_name(name).or(gives_no_slug.then_some("BAD_FORMAT"))
}

pub fn bad_description(text: &str) -> Option<&'static str> {
    if text.chars().count() > 2_000 {
        return Some("TOO_LONG");
    }
    text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')).then_some("BAD_FORMAT")
}

/// The slug made from a name: its stem, or the first of `-2`, `-3` … behind it that makes a slug which is not taken.
pub fn free_slug(name: &str, taken: &BTreeSet<String>) -> String {
    let stem = SlugStem::from_name(name).expect("a name that was looked at before");
    let numbered = |number: usize| {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let max_length = 63 - suffix.len();
        let (mut cut, rest) = stem.as_str().split_at_checked(max_length).unwrap_or((stem.as_str(), ""));
        // No name of the model begins with a word that is longer than a slug.
        if !rest.is_empty() && !rest.starts_with('-') {
            cut = cut.rsplit_once('-').expect("a name of several words").0;
        }
        format!("{}{suffix}", cut.trim_end_matches('-'))
    };
    let is_free = |slug: &String| bad_slug(slug).is_none() && !taken.contains(slug);
    (1..=taken.len() + 2).map(numbered).find(is_free).expect("more are tried than are taken")
}
