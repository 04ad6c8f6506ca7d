//! Branding: free-form settings of the storefront, written by the platform's front end. Turnkey checks their size, not
//! their meaning, and carries them as JSON text: parsed, a JSON value takes many times the memory of its text.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::validation::{InvalidValue, Reason};

/// A JSON object of at most 64 KiB, 2,000 values and 16 levels, without NUL characters, which `jsonb` cannot store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branding(String);

/// The branding of an existing tenant, a JSON object. It exceeds the limits of [`Branding`] if an older version or an
/// administrator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBranding(String);

impl Branding {
    pub const MAX_BYTES: usize = 64 * 1024;
    /// Members of objects and elements of arrays, at all levels. The branding itself does not count.
    pub const MAX_VALUES: usize = 2_000;
    /// In levels; the object itself is the first.
    pub const MAX_DEPTH: usize = 16;

    /// Checks the text of a JSON object against the limits, without building the object.
    ///
    /// # Errors
    /// `TOO_LONG` above 64 KiB or 2,000 values, `OUT_OF_RANGE` above 16 levels, `BAD_FORMAT` for a NUL character and
    /// for text that is not a JSON object.
    pub fn parse(json: String) -> Result<Self, InvalidValue> {
        let mut checks = Checks::default();
        let mut deserializer = serde_json::Deserializer::from_str(&json);
        let checked = CheckedValue { checks: &mut checks, depth: 0 }.deserialize(&mut deserializer);
        let is_object = checked.and_then(|()| deserializer.end()).is_ok() && json.trim_start().starts_with('{');
        if let Some(violation) = checks.violation {
            return Err(violation);
        }
        if !is_object {
            return Err(InvalidValue::new(Reason::BadFormat, "must be an object"));
        }
        if json.len() + checks.expanded_number_bytes > Self::MAX_BYTES {
            return Err(Self::too_long());
        }
        Ok(Self(json))
    }

    /// Returns the error for an object of more than 64 KiB. The conversion from protobuf also uses it.
    pub fn too_long() -> InvalidValue {
        InvalidValue::new(Reason::TooLong, "must have at most 64 KiB as JSON")
    }

    /// Returns the error for an object with more than 16 levels. The conversion from protobuf also uses it.
    pub fn too_deep() -> InvalidValue {
        InvalidValue::new(Reason::OutOfRange, "must have at most 16 levels")
    }

    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// A JSON Merge Patch of a branding (RFC 7396), within the limits of [`Branding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrandingPatch(Branding);

impl BrandingPatch {
    pub const fn new(patch: Branding) -> Self {
        Self(patch)
    }

    /// Returns the branding after the patch.
    ///
    /// # Errors
    /// Those of [`Branding::parse`], if the result exceeds the limits.
    pub fn apply(&self, stored: &StoredBranding) -> Result<Branding, InvalidValue> {
        let parse = |json: &str| {
            serde_json::from_str(json).map_err(|_error| InvalidValue::new(Reason::BadFormat, "must be an object"))
        };
        let (mut branding, patch): (Value, Value) = (parse(stored.as_json())?, parse(self.0.as_json())?);
        merge(&mut branding, patch);
        Branding::parse(branding.to_string())
    }
}

/// The algorithm of RFC 7396. The depth of the patch, and so that of the recursion, is at most 16.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.remove(&key);
        } else {
            merge(members.entry(key).or_insert(Value::Null), value);
        }
    }
}

impl StoredBranding {
    pub const fn from_json(json: String) -> Self {
        Self(json)
    }

    /// Returns the branding of a new tenant, an empty object.
    pub fn empty() -> Self {
        Self("{}".to_owned())
    }

    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// What was read so far.
#[derive(Default)]
struct Checks {
    values: usize,
    /// How many bytes the text grows in the database: `jsonb` writes numbers without an exponent.
    expanded_number_bytes: usize,
    violation: Option<InvalidValue>,
}

impl Checks {
    /// Records why reading stops.
    fn fail<E: serde::de::Error>(&mut self, violation: InvalidValue) -> E {
        let error = E::custom(&violation.description);
        self.violation = Some(violation);
        error
    }

    fn text<E: serde::de::Error>(&mut self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            return Err(self.fail(InvalidValue::new(Reason::BadFormat, "must not contain NUL characters")));
        }
        Ok(())
    }

    /// Counts a member or an element.
    fn value<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.values += 1;
        if self.values > Branding::MAX_VALUES {
            return Err(self.fail(InvalidValue::new(Reason::TooLong, "must have at most 2,000 JSON values")));
        }
        Ok(())
    }

    /// Returns the depth of the members of a container at this depth.
    fn enter<E: serde::de::Error>(&mut self, depth: usize) -> Result<usize, E> {
        if depth == Branding::MAX_DEPTH { Err(self.fail(Branding::too_deep())) } else { Ok(depth + 1) }
    }
}

/// Reads a JSON value and drops it.
struct CheckedValue<'a> {
    checks: &'a mut Checks,
    /// The number of objects and arrays around the value.
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for CheckedValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CheckedValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _flag: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _number: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _number: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        let json = Number::from_f64(number).ok_or_else(|| E::custom("not finite"))?.to_string();
        self.checks.expanded_number_bytes += format!("{number}").len().saturating_sub(json.len());
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.checks.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Self { checks, depth } = self;
        let depth = checks.enter(depth)?;
        while array.next_element_seed(CheckedValue { checks: &mut *checks, depth })?.is_some() {
            checks.value()?;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self { checks, depth } = self;
        let depth = checks.enter(depth)?;
        while let Some(key) = object.next_key::<Cow<'_, str>>()? {
            checks.text(&key)?;
            checks.value()?;
            object.next_value_seed(CheckedValue { checks: &mut *checks, depth })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(value: Value) -> Option<Reason> {
        let Value::Object(object) = value else { panic!("not an object") };
        Branding::parse(Value::Object(object).to_string()).err().map(|invalid| invalid.reason)
    }

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({}), |inner, _| json!({ "in": inner }))
    }

    #[test]
    fn the_size_limit_of_brandings_counts_numbers_without_exponents() {
        assert_eq!(reason(json!({"a": vec![1e300; 200]})), None);
        assert_eq!(reason(json!({"a": vec![1e300; 300]})), Some(Reason::TooLong));
        assert_eq!(reason(json!({"a": vec![1e-300; 300]})), Some(Reason::TooLong));
        assert_eq!(reason(json!({"a": vec![12.5; 1_999]})), None);
    }

    #[test]
    fn the_values_of_a_branding_are_its_members_and_elements_at_all_levels() {
        let too_many = Branding::parse(json!({"a": vec![0; 2_000]}).to_string()).unwrap_err();
        assert_eq!(too_many, InvalidValue::new(Reason::TooLong, "must have at most 2,000 JSON values"));
        assert_eq!(reason(json!({"a": vec![json!([]); 1_999]})), None);
        assert_eq!(reason(json!({"a": vec![json!([0]); 1_000]})), Some(Reason::TooLong));
        let members = |count: usize| (0..count).map(|number| (number.to_string(), json!(null))).collect::<Value>();
        assert_eq!(reason(members(2_000)), None);
        assert_eq!(reason(members(2_001)), Some(Reason::TooLong));
        assert_eq!(reason(json!({"a": {"b": members(1_998)}})), None);
        assert_eq!(reason(json!({"a": {"b": members(1_999)}})), Some(Reason::TooLong));
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

    #[test]
    fn a_branding_is_patched_as_in_the_examples_of_rfc_7396() {
        for (stored, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let parsed = BrandingPatch::new(Branding::parse(patch.to_string()).unwrap());
            let patched = parsed.apply(&StoredBranding::from_json(stored.to_string())).unwrap();
            let patched: Value = serde_json::from_str(patched.as_json()).unwrap();
            assert_eq!(patched, expected, "{stored} patched with {patch}");
        }
    }

    #[test]
    fn the_limits_of_a_branding_hold_after_a_patch() {
        let half = "x".repeat(40 * 1024);
        let patch = BrandingPatch::new(Branding::parse(json!({"a": half}).to_string()).unwrap());
        let apply = |stored: Value| patch.apply(&StoredBranding::from_json(stored.to_string()));
        assert_eq!(apply(json!({"b": half})).unwrap_err().reason, Reason::TooLong);
        assert!(apply(json!({"a": half})).is_ok());
    }

    #[test]
    fn only_a_json_object_is_a_branding() {
        for invalid in ["", "{", "{} {}", "[]", "1", "\"{}\"", "null", "{\"a\": 1e400}", "{\"a\": [}"] {
            let error = Branding::parse(invalid.to_owned()).unwrap_err();
            assert_eq!(error, InvalidValue::new(Reason::BadFormat, "must be an object"), "{invalid}");
        }
    }
}
