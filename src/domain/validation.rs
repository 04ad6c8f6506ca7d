//! Validation errors of a value and of a whole request.
//!
//! A parser returns [`InvalidValue`], which knows neither its field nor the other fields. The caller adds the field's
//! path and continues parsing, so that a client gets all violations of its request in one response. How they are
//! encoded is in `grpc::status`.

use std::{borrow::Cow, fmt};

/// Machine-readable reason of a violation. The names, such as `MISSING_FIELD`, are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    MissingField,
    BadFormat,
    TooShort,
    TooLong,
    OutOfRange,
    Reserved,
    WeakPassword,
}

/// A rejected value: the reason for programs, and the end of a sentence that begins with the field's name for people.
///
/// The description never repeats the value, which may be a secret, very long or unprintable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    pub reason: Reason,
    pub description: Cow<'static, str>,
}

impl InvalidValue {
    pub fn new(reason: Reason, description: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, description: description.into() }
    }

    pub fn missing() -> Self {
        Self::new(Reason::MissingField, "is required")
    }

    /// Returns the violation of an optional field for which a parser reports that the value is missing.
    fn of_optional_field(self) -> Self {
        if self == Self::missing() { Self::new(self.reason, "must not be empty") } else { self }
    }
}

/// An [`InvalidValue`] with the path of its field, e.g. `packages[3].name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub invalid: InvalidValue,
}

/// The violations of one request, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Returns the only violation of a request.
    pub fn single(field: impl Into<String>, invalid: InvalidValue) -> Self {
        Self(vec![Violation { field: field.into(), invalid }])
    }

    pub fn add(&mut self, field: impl Into<String>, invalid: InvalidValue) {
        self.0.push(Violation { field: field.into(), invalid });
    }

    /// Returns the parsed value, or adds the violation under `field` and returns `None`.
    pub fn check<T>(&mut self, field: impl Into<String>, parsed: Result<T, InvalidValue>) -> Option<T> {
        parsed.map_err(|invalid| self.add(field, invalid)).ok()
    }

    /// Parses a field that may be absent, but not empty if the parser requires a value. `None` means that it is absent,
    /// or that it is invalid and its violation was added. [`Violations::into_result`] fails in the latter case, so its
    /// closure need not distinguish the two.
    pub fn check_optional<V, T>(
        &mut self,
        field: impl Into<String>,
        value: Option<V>,
        parse: impl FnOnce(V) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        value.and_then(|value| self.check(field, parse(value).map_err(InvalidValue::of_optional_field)))
    }

    /// Returns the parsed message, or adds its violations with `path` in front of their fields and returns `None`.
    pub fn check_nested<T>(&mut self, path: &str, parsed: Result<T, Self>) -> Option<T> {
        let prefixed = |Violation { field, invalid }| Violation { field: format!("{path}{field}"), invalid };
        parsed.map_err(|violations| self.0.extend(violations.0.into_iter().map(prefixed))).ok()
    }

    /// Returns what `build` creates from the checked parts, or all violations if there are any.
    ///
    /// # Panics
    /// If `build` returns `None` although there is no violation: the error would not say what is wrong.
    pub fn into_result<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Self> {
        match build() {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                assert!(!self.0.is_empty(), "a part is missing, but no violation was added");
                Err(self)
            }
        }
    }

    pub fn as_slice(&self) -> &[Violation] {
        &self.0
    }
}

/// One violation in full, several as their number.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_slice() {
            [only] => write!(f, "{} {}", only.field, only.invalid.description),
            all => write!(f, "{} fields are missing or invalid", all.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<usize, InvalidValue> {
        if text.is_empty() { Err(InvalidValue::missing()) } else { Ok(text.len()) }
    }

    #[test]
    fn an_absent_optional_field_is_valid_and_an_empty_one_is_checked() {
        let mut fields = Violations::default();
        assert_eq!(fields.check_optional("name", None, parse), None);
        assert_eq!(fields.check_optional("name", Some("bella"), parse), Some(5));
        assert_eq!(fields.clone().into_result(|| Some(())), Ok(()));
        assert_eq!(fields.check_optional("name", Some(""), parse), None);
        assert_eq!(fields.as_slice()[0].invalid.reason, Reason::MissingField);
        assert_eq!(fields.into_result(|| Some(())).unwrap_err().to_string(), "name must not be empty");
    }

    #[test]
    fn violations_of_a_nested_message_have_its_path() {
        let mut item = Violations::default();
        item.add("name", InvalidValue::missing());
        let mut fields = Violations::default();
        assert_eq!(fields.check_nested("packages[3].", Ok(1)), Some(1));
        assert_eq!(fields.check_nested::<()>("packages[3].", Err(item)), None);
        assert_eq!(fields.as_slice()[0].field, "packages[3].name");
        assert_eq!(fields.as_slice()[0].invalid.reason.to_string(), "MISSING_FIELD");
    }

    #[test]
    #[should_panic(expected = "no violation was added")]
    fn a_missing_part_without_a_violation_is_a_bug() {
        let _ = Violations::default().into_result(|| None::<()>);
    }
}
