//! Converts a tenant's branding between `google.protobuf.Struct` and JSON text. Only the message of a request or
//! response has the form of values.

use std::fmt;

use prost_types::{ListValue, Struct, Value as PbValue, value::Kind};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use crate::domain::{Branding, InvalidValue, Reason, StoredBranding};

/// # Errors
/// `BAD_FORMAT` for values that JSON cannot represent, and the errors of [`Branding::parse`].
pub(super) fn parse(message: &Struct) -> Result<Branding, InvalidValue> {
    let mut json = String::new();
    write_object(&mut json, message, Branding::MAX_DEPTH)?;
    Branding::parse(json)
}

/// `depth` bounds the recursion independently of the decoder's limit.
fn write_object(json: &mut String, message: &Struct, depth: usize) -> Result<(), InvalidValue> {
    let depth = depth.checked_sub(1).ok_or_else(Branding::too_deep)?;
    json.push('{');
    for (index, (key, member)) in message.fields.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        write_string(json, key)?;
        json.push(':');
        write_value(json, member, depth)?;
    }
    json.push('}');
    Ok(())
}

fn write_array(json: &mut String, message: &ListValue, depth: usize) -> Result<(), InvalidValue> {
    let depth = depth.checked_sub(1).ok_or_else(Branding::too_deep)?;
    json.push('[');
    for (index, element) in message.values.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        write_value(json, element, depth)?;
    }
    json.push(']');
    Ok(())
}

fn write_value(json: &mut String, message: &PbValue, depth: usize) -> Result<(), InvalidValue> {
    let invalid = |description| InvalidValue::new(Reason::BadFormat, description);
    // Checked for each value, so that the text of a large message does not grow much longer.
    if json.len() > Branding::MAX_BYTES {
        return Err(Branding::too_long());
    }
    match message.kind.as_ref().ok_or_else(|| invalid("must not contain a value without a kind"))? {
        Kind::NullValue(_) => json.push_str("null"),
        Kind::BoolValue(flag) => json.push_str(if *flag { "true" } else { "false" }),
        Kind::NumberValue(number) => {
            let number = json_number(*number).ok_or_else(|| invalid("must contain finite numbers only"))?;
            json.push_str(&number.to_string());
        }
        Kind::StringValue(text) => write_string(json, text)?,
        Kind::ListValue(list) => write_array(json, list, depth)?,
        Kind::StructValue(inner) => write_object(json, inner, depth)?,
    }
    Ok(())
}

fn write_string(json: &mut String, text: &str) -> Result<(), InvalidValue> {
    if text.len() > Branding::MAX_BYTES {
        return Err(Branding::too_long());
    }
    json.push_str(&serde_json::Value::from(text).to_string());
    Ok(())
}

/// Returns an integer for a number without a fraction (`7`, not `7.0`), and `None` for a number that is not finite.
fn json_number(number: f64) -> Option<Number> {
    /// 2^53: up to here, a double represents every integer exactly.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "an integer within 53 bits")]
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

/// Builds the message of a stored branding. Objects and arrays below the 16th level, which only an administrator can
/// have written and clients could not decode, become null.
pub(super) fn render(branding: &StoredBranding) -> Struct {
    let mut json = serde_json::Deserializer::from_str(branding.as_json());
    match (Rendered { depth: Branding::MAX_DEPTH }).deserialize(&mut json) {
        Ok(PbValue { kind: Some(Kind::StructValue(object)) }) => object,
        // The database has JSON objects only. A number may exceed the range of doubles, though.
        result => {
            tracing::error!(error = ?result.err(), "A stored branding cannot be represented and is shown empty");
            Struct::default()
        }
    }
}

/// Reads a JSON value as a message.
#[derive(Clone, Copy)]
struct Rendered {
    /// The number of levels that an object or array may have.
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Rendered {
    type Value = PbValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PbValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Rendered {
    /// Returns the reader of the members of an object or array, or `None` below the last level.
    const fn members(self) -> Option<Self> {
        match self.depth.checked_sub(1) {
            Some(depth) => Some(Self { depth }),
            None => None,
        }
    }
}

fn value(kind: Kind) -> PbValue {
    PbValue { kind: Some(kind) }
}

impl<'de> Visitor<'de> for Rendered {
    type Value = PbValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<PbValue, E> {
        Ok(value(Kind::NullValue(0)))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<PbValue, E> {
        Ok(value(Kind::BoolValue(flag)))
    }

    // Struct has doubles only, and every number that the service stored came from one.

    #[expect(clippy::cast_precision_loss, reason = "Struct has doubles only")]
    fn visit_i64<E>(self, number: i64) -> Result<PbValue, E> {
        Ok(value(Kind::NumberValue(number as f64)))
    }

    #[expect(clippy::cast_precision_loss, reason = "Struct has doubles only")]
    fn visit_u64<E>(self, number: u64) -> Result<PbValue, E> {
        Ok(value(Kind::NumberValue(number as f64)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<PbValue, E> {
        Ok(value(Kind::NumberValue(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<PbValue, E> {
        Ok(value(Kind::StringValue(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<PbValue, A::Error> {
        let Some(element) = self.members() else {
            while array.next_element::<IgnoredAny>()?.is_some() {}
            return self.visit_unit();
        };
        let mut values = Vec::new();
        while let Some(element) = array.next_element_seed(element)? {
            values.push(element);
        }
        Ok(value(Kind::ListValue(ListValue { values })))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<PbValue, A::Error> {
        let Some(member) = self.members() else {
            while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return self.visit_unit();
        };
        let mut message = Struct::default();
        while let Some(key) = object.next_key()? {
            message.fields.insert(key, object.next_value_seed(member)?);
        }
        Ok(value(Kind::StructValue(message)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(number: f64) -> Struct {
        Struct { fields: [("number".to_owned(), value(Kind::NumberValue(number)))].into() }
    }

    fn list(values: Vec<PbValue>) -> PbValue {
        value(Kind::ListValue(ListValue { values }))
    }

    fn rendered(json: &str) -> Struct {
        render(&StoredBranding::from_json(json.to_owned()))
    }

    #[test]
    fn integers_have_no_fraction_and_numbers_that_are_not_finite_are_rejected() {
        let json = |double: f64| parse(&number(double)).unwrap().as_json().to_owned();
        assert_eq!(json(7.0), r#"{"number":7}"#);
        assert_eq!(json(-0.5), r#"{"number":-0.5}"#);
        for invalid in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(parse(&number(invalid)).unwrap_err().reason, Reason::BadFormat);
        }
        let no_kind = Struct { fields: [("nothing".to_owned(), PbValue { kind: None })].into() };
        assert_eq!(parse(&no_kind).unwrap_err().reason, Reason::BadFormat);
    }

    #[test]
    fn a_message_of_millions_of_values_is_rejected_at_the_first_64_kib() {
        let too_long = |values| parse(&Struct { fields: [("list".to_owned(), list(values))].into() }).unwrap_err();
        let numbers = vec![value(Kind::NumberValue(0.0)); 3_000_000];
        assert_eq!(too_long(numbers), Branding::too_long());
        let texts = vec![value(Kind::StringValue("\u{1}".repeat(Branding::MAX_BYTES))); 100];
        assert_eq!(too_long(texts), Branding::too_long());
    }

    #[test]
    fn a_stored_branding_beyond_the_limits_is_rendered() {
        let zeros = vec!["0"; 32_000].join(",");
        let message = rendered(&format!(r#"{{"zeros":[{zeros}]}}"#));
        assert_eq!(message.fields["zeros"], list(vec![value(Kind::NumberValue(0.0)); 32_000]));
        // At the 17th level.
        let deep = format!("{}1{}", "[".repeat(1_000), "]".repeat(1_000));
        let expected = (1..Branding::MAX_DEPTH).fold(value(Kind::NullValue(0)), |inner, _| list(vec![inner]));
        assert_eq!(rendered(&format!(r#"{{"deep":{deep}}}"#)).fields["deep"], expected);
        assert_eq!(rendered(&format!(r#"{{"number":1{}}}"#, "0".repeat(400))), Struct::default());
    }

    fn any_value() -> impl Strategy<Value = PbValue> {
        let scalar = prop_oneof![
            Just(value(Kind::NullValue(0))),
            any::<bool>().prop_map(|flag| value(Kind::BoolValue(flag))),
            any::<f64>()
                .prop_filter("finite", |number| number.is_finite())
                .prop_map(|number| value(Kind::NumberValue(number))),
            "[^\0]*".prop_map(|text| value(Kind::StringValue(text))),
        ];
        scalar.prop_recursive(8, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(list),
                prop::collection::btree_map("[^\0]*", inner, 0..8)
                    .prop_map(|fields| value(Kind::StructValue(Struct { fields }))),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_finite_double_survives_a_round_trip_through_json(bits in any::<u64>()) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            prop_assert_eq!(rendered(parse(&number(double)).unwrap().as_json()), number(double));
        }

        #[test]
        fn every_branding_survives_a_round_trip_through_json(
            fields in prop::collection::btree_map("[^\0]*", any_value(), 0..8)
        ) {
            let message = Struct { fields };
            prop_assert_eq!(rendered(parse(&message).unwrap().as_json()), message);
        }
    }
}
