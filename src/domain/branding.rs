//! The looks of a storefront: free-form settings of the platform's front end.

use serde_json::{Map, Value};

use super::validation::{InvalidValue, Reason};

/// A JSON object of at most 64 KiB and 16 levels, without NUL characters, which the database could not keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Branding(Map<String, Value>);

impl Branding {
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The object itself is the first.
    pub const MAX_DEPTH: usize = 16;

    /// # Errors
    /// `TOO_LONG` beyond 64 KiB of JSON, `OUT_OF_RANGE` beyond 16 levels, `BAD_FORMAT` for a NUL character.
    pub fn parse(object: Map<String, Value>) -> Result<Self, InvalidValue> {
        if depth(object.values()) > Self::MAX_DEPTH {
            return Err(Self::too_deep());
        }
        if has_nul(&object) {
            return Err(InvalidValue::new(Reason::BadFormat, "must not hold NUL characters"));
        }
        let written_out: usize = object.values().map(expanded_number_bytes).sum();
        let object = Value::Object(object);
        if object.to_string().len() + written_out > Self::MAX_BYTES {
            return Err(InvalidValue::new(Reason::TooLong, "must have at most 64 KiB as JSON"));
        }
        match object {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(InvalidValue::new(Reason::BadFormat, "must be an object")),
        }
    }

    pub fn too_deep() -> InvalidValue {
        InvalidValue::new(Reason::OutOfRange, "must have at most 16 levels")
    }

    pub const fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }
}

fn depth<'a>(members: impl Iterator<Item = &'a Value>) -> usize {
    let inner = |member: &Value| match member {
        Value::Object(object) => depth(object.values()),
        Value::Array(items) => depth(items.iter()),
        _ => 0,
    };
    1 + members.map(inner).max().unwrap_or(0)
}

/// By how much it is longer as the database writes it: numbers without an exponent.
fn expanded_number_bytes(value: &Value) -> usize {
    match value {
        Value::Number(number) => {
            let written_out = number.as_f64().map_or(0, |number| format!("{number}").len());
            written_out.saturating_sub(number.to_string().len())
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
        let Value::Object(object) = value else { panic!("no object") };
        Branding::parse(object).err().map(|invalid| invalid.reason)
    }

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({}), |inner, _| json!({ "in": inner }))
    }

    #[test]
    fn numbers_count_as_they_are_written_out() {
        assert_eq!(reason(json!({"a": vec![1e300; 200]})), None);
        assert_eq!(reason(json!({"a": vec![1e300; 300]})), Some(Reason::TooLong));
        assert_eq!(reason(json!({"a": vec![1e-300; 300]})), Some(Reason::TooLong));
        assert_eq!(reason(json!({"a": vec![12.5; 12_000]})), None);
    }

    #[test]
    fn size_depth_and_nul_have_their_reasons() {
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
