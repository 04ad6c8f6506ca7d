//! What is wrong with a value, and with a whole request.
//!
//! A parser answers [`InvalidValue`]: it knows the value but not where it stood. The edge adds the field's path and keeps
//! on parsing, so that a caller hears of every mistake at once.

use std::borrow::Cow;

/// Why a value was refused; stable names for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    MissingField,
    BadFormat,
    TooShort,
    TooLong,
    OutOfRange,
    Reserved,
    WeakPassword,
}

impl Reason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingField => "MISSING_FIELD",
            Self::BadFormat => "BAD_FORMAT",
            Self::TooShort => "TOO_SHORT",
            Self::TooLong => "TOO_LONG",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Reserved => "RESERVED",
            Self::WeakPassword => "WEAK_PASSWORD",
        }
    }
}

/// A refused value: the reason for programs, a sentence for people.
///
/// The sentence never repeats the value: it may be a secret, very long, or not fit to print.
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
}

/// An [`InvalidValue`] with the path of its field, e.g. `packages[3].name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub invalid: InvalidValue,
}

/// All violations of one request, in the order of its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    pub fn add(&mut self, field: impl Into<String>, invalid: InvalidValue) {
        self.0.push(Violation { field: field.into(), invalid });
    }

    /// The parsed value, or `None` with the violation noted under `field`.
    pub fn check<T>(&mut self, field: impl Into<String>, parsed: Result<T, InvalidValue>) -> Option<T> {
        parsed.map_err(|invalid| self.add(field, invalid)).ok()
    }

    /// As [`Violations::check`], for a field that may be absent: `Some(None)` is absent and fine.
    pub fn check_optional<V, T>(
        &mut self,
        field: impl Into<String>,
        value: Option<V>,
        parse: impl FnOnce(V) -> Result<T, InvalidValue>,
    ) -> Option<Option<T>> {
        match value {
            None => Some(None),
            Some(value) => self.check(field, parse(value)).map(Some),
        }
    }

    /// What `build` makes of the parsed parts, or all that was noted.
    ///
    /// # Errors
    /// The violations, where there is at least one.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Self> {
        match build() {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }

    /// In the order in which they were noted.
    pub fn as_slice(&self) -> &[Violation] {
        &self.0
    }
}
