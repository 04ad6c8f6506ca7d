//! Branding: free-form settings of the storefront, written by the platform's front end. Turnkey checks their size, not
//! their meaning.

use serde_json::{Map, Value};

use super::validation::{InvalidValue, Reason};

/// A JSON object of at most 64 KiB and 16 levels, without NUL characters, which `jsonb` cannot store.
#[derive(Debug, Clone, PartialEq)]
pub struct Branding(Map<String, Value>);

impl Branding {
    pub const MAX_BYTES: usize = 64 * 1024;
    /// In levels; the object itself is the first.
    pub const MAX_DEPTH: usize = 16;

    /// Checks an object against the limits.
    ///
    /// # Errors
    /// `TOO_LONG` above 64 KiB of JSON, `OUT_OF_RANGE` above 16 levels, `BAD_FORMAT` for a NUL character.
    pub fn parse(object: Map<String, Value>) -> Result<Self, InvalidValue> {
        if depth(object.values()) > Self::MAX_DEPTH {
            return Err(Self::too_deep());
        }
        if has_nul(&object) {
            return Err(InvalidValue::new(Reason::BadFormat, "must not contain NUL characters"));
        }
        let number_bytes: usize = object.values().map(expanded_number_bytes).sum();
        let object = Value::Object(object);
        if object.to_string().len() + number_bytes > Self::MAX_BYTES {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 64 KiB as JSON"));
        }
        match object {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(InvalidValue::new(Reason::BadFormat, "must be an object")),
        }
    }

    /// Returns the error for an object with more than 16 levels. The conversion from protobuf also uses it.
    pub fn too_deep() -> InvalidValue {
        InvalidValue::new(Reason::OutOfRange, "must have at most 16 levels")
    }

    pub const fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Returns the number of levels of an object or array with these members.
fn depth<'a>(members: impl Iterator<Item = &'a Value>) -> usize {
    let member_depth = |member: &Value| match member {
        Value::Object(object) => depth(object.values()),
        Value::Array(items) => depth(items.iter()),
        _ => 0,
    };
    1 + members.map(member_depth).max().unwrap_or(0)
}

/// Returns how many bytes a value grows in the database: `jsonb` writes numbers without an exponent.
fn expanded_number_bytes(value: &Value) -> usize {
    match value {
        Value::Number(number) => {
            let expanded = number.as_f64().map_or(0, |number| format!("{number}").len());
            expanded.saturating_sub(number.to_string().len())
        }
        Value::Array(items) => items.iter().map(expanded_number_bytes).sum(),
        Value::Object(object) => object.values().map(expanded_number_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    }
}

fn has_nul(object: &Map<String, Value>) -> bool {
    fn in_value(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(in_value),
            Value::Object(object) => has_nul(object),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    object.iter().any(|(key, value)| key.contains('\0') || in_value(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(value: Value) -> Option<Reason> {
        let Value::Object(object) = value else { panic!("not an object") };
        Branding::parse(object).err().map(|invalid| invalid.reason)
    }

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({}), |inner, _| json!({ "in": inner }))
    }

    #[test]
    fn the_size_limit_of_brandings_counts_numbers_without_exponents() {
        assert_eq!(reason(json!({"a": vec![1e300; 200]})), None);
        assert_eq!(reason(json!({"a": vec![1e300; 300]})), Some(Reason::TooLong));
        assert_eq!(reason(json!({"a": vec![1e-300; 300]})), Some(Reason::TooLong));
        assert_eq!(reason(json!({"a": vec![12.5; 12_000]})), None);
    }

    #[test]
    fn a_branding_that_is_too_long_or_too_deep_or_has_a_nul_is_rejected_with_its_reason() {
        assert_eq!(reason(json!({})), None);
        assert_eq!(reason(json!({"colors": {"primary": "#aa3366"}, "fonts": ["Lora", null, 1.5, true]})), None);
        assert_eq!(reason(json!({"a": "x".repeat(64 * 1024 - 8)})), None, "64 KiB as JSON");
        assert_eq!(reason(json!({"a": "x".repeat(64 * 1024 - 7)})), Some(Reason::TooLong));
        assert_eq!(reason(nested(16)), None);
        assert_eq!(reason(nested(17)), Some(Reason::OutOfRange));
        assert_eq!(reason(json!({"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]})), Some(Reason::OutOfRange));
        assert_eq!(reason(json!({"a": ["b\0"]})), Some(Reason::BadFormat));
        assert_eq!(reason(json!({"a\0": 1})), Some(Reason::BadFormat));
    }
}
