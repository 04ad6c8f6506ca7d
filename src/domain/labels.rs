//! The labels of a tenant, by which a platform groups its tenants.

use std::collections::BTreeMap;

use serde::Serialize;

use super::validation::{InvalidValue, Reason, Violations};

/// At most 50 labels. A key has 1 to 63 characters of `a-z`, `0-9`, `.`, `_` and `-`, a value at most 255 characters,
/// none of them a control character.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    const MAX_LABELS: usize = 50;
    const MAX_KEY_LENGTH: usize = 63;
    const MAX_VALUE_LENGTH: usize = 255;

    /// # Errors
    /// All violations. The path of a label is its key in brackets, that of the whole is empty.
    pub fn parse(labels: BTreeMap<String, String>) -> Result<Self, Violations> {
        let mut violations = Violations::default();
        if labels.len() > Self::MAX_LABELS {
            violations.add("", InvalidValue::new(Reason::TooLong, "must have at most 50 labels"));
        }
        for (key, value) in &labels {
            violations.check(path(key), check_key(key).and_then(|()| check_value(value)));
        }
        violations.into_result(|| Some(Self(labels)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns the bytes of the labels as JSON, with a space after each colon and comma, as Postgres writes it.
    pub fn json_bytes(&self) -> usize {
        // Four quotation marks, a colon, a comma and two spaces.
        const PUNCTUATION: usize = 8;
        // Only these characters of a value are escaped.
        let escapes = |value: &str| value.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
        let bytes = |(key, value): (&str, &str)| key.len() + value.len() + escapes(value) + PUNCTUATION;
        2 + self.iter().map(bytes).sum::<usize>()
    }

    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }
}

/// Returns the path of a label. An invalid key may be long or contain control characters.
fn path(key: &str) -> String {
    let shown: String = key.chars().take(Labels::MAX_KEY_LENGTH).collect();
    let rest = if shown.len() < key.len() { "…" } else { "" };
    format!("[{}{rest}]", shown.escape_debug())
}

fn check_key(key: &str) -> Result<(), InvalidValue> {
    if key.is_empty() {
        return Err(InvalidValue::new(Reason::TooShort, "must have a key of at least 1 character"));
    }
    if !key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
        return Err(InvalidValue::new(Reason::BadFormat, "must have a key of a-z, 0-9, '.', '_' and '-' only"));
    }
    if key.len() > Labels::MAX_KEY_LENGTH {
        return Err(InvalidValue::new(Reason::TooLong, "must have a key of at most 63 characters"));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), InvalidValue> {
    if value.chars().any(char::is_control) {
        return Err(InvalidValue::new(Reason::BadFormat, "must not contain control characters"));
    }
    if value.chars().count() > Labels::MAX_VALUE_LENGTH {
        return Err(InvalidValue::new(Reason::TooLong, "must have at most 255 characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(labels: &[(&str, &str)]) -> Result<Labels, Violations> {
        Labels::parse(labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn violations(labels: &[(&str, &str)]) -> Vec<(String, Reason)> {
        let violations = parse(labels).err().unwrap_or_default();
        violations.as_slice().iter().map(|one| (one.field.clone(), one.invalid.reason)).collect()
    }

    #[test]
    fn each_violated_rule_of_a_label_has_its_reason_and_its_key_as_path() {
        let (key, value) = ("k".repeat(63), "é".repeat(255));
        assert_eq!(violations(&[]), []);
        assert_eq!(violations(&[(&key, &value), ("a.b_c-9", ""), ("9", " x ")]), []);
        assert_eq!(
            violations(&[("", "x"), ("Plan", "x"), ("plan", "a\nb"), ("region", &"é".repeat(256)), ("tier", "x")]),
            [
                ("[]".to_owned(), Reason::TooShort),
                ("[Plan]".to_owned(), Reason::BadFormat),
                ("[plan]".to_owned(), Reason::BadFormat),
                ("[region]".to_owned(), Reason::TooLong),
            ]
        );
        assert_eq!(violations(&[(&"k".repeat(64), "")]), [(format!("[{key}…]"), Reason::TooLong)]);
        assert_eq!(violations(&[("a\0\n", "")]), [("[a\\0\\n]".to_owned(), Reason::BadFormat)]);
    }

    #[test]
    fn there_are_at_most_50_labels() {
        let labels = |count: u32| (0..count).map(|number| (number.to_string(), String::new())).collect();
        assert_eq!(Labels::parse(labels(50)).unwrap().len(), 50);
        let violations = Labels::parse(labels(51)).unwrap_err();
        let [only] = violations.as_slice() else { panic!("{violations:?}") };
        assert_eq!((only.field.as_str(), only.invalid.reason), ("", Reason::TooLong));
    }

    proptest! {
        #[test]
        fn valid_labels_are_kept_as_they_are(
            labels in prop::collection::btree_map("[a-z0-9._-]{1,63}", "\\PC{0,255}", 0..50)
        ) {
            prop_assert_eq!(Labels::parse(labels.clone()).map(Labels::into_map), Ok(labels));
        }
    }
}
