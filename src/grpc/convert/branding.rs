//! Converts a tenant's branding between `google.protobuf.Struct` and JSON.

use prost_types::{ListValue, Struct, Value as PbValue, value::Kind};
use serde_json::{Map, Number, Value};

use crate::domain::{Branding, InvalidValue, Reason};

/// # Errors
/// `BAD_FORMAT` for values that JSON cannot represent, and the errors of [`Branding::parse`].
pub(super) fn parse(message: Struct) -> Result<Branding, InvalidValue> {
    Branding::parse(object(message, Branding::MAX_DEPTH)?)
}

/// `depth` bounds the recursion independently of the decoder's limit.
fn object(message: Struct, depth: usize) -> Result<Map<String, Value>, InvalidValue> {
    let depth = depth.checked_sub(1).ok_or_else(Branding::too_deep)?;
    message.fields.into_iter().map(|(key, member)| Ok((key, value(member, depth)?))).collect()
}

fn value(message: PbValue, depth: usize) -> Result<Value, InvalidValue> {
    let invalid = |description| InvalidValue::new(Reason::BadFormat, description);
    match message.kind.ok_or_else(|| invalid("must not contain a value without a kind"))? {
        Kind::NullValue(_) => Ok(Value::Null),
        Kind::BoolValue(flag) => Ok(Value::Bool(flag)),
        Kind::NumberValue(number) => {
            json_number(number).map(Value::Number).ok_or_else(|| invalid("must contain finite numbers only"))
        }
        Kind::StringValue(text) => Ok(Value::String(text)),
        Kind::ListValue(list) => {
            let depth = depth.checked_sub(1).ok_or_else(Branding::too_deep)?;
            list.values.into_iter().map(|item| value(item, depth)).collect::<Result<_, _>>().map(Value::Array)
        }
        Kind::StructValue(inner) => object(inner, depth).map(Value::Object),
    }
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

pub(super) fn render(object: Map<String, Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(key, member)| (key, to_proto_value(member))).collect() }
}

fn to_proto_value(json: Value) -> PbValue {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        // Struct has doubles only, and every stored number came from one.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(to_proto_value).collect() }),
        Value::Object(object) => Kind::StructValue(render(object)),
    };
    PbValue { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(number: f64) -> Struct {
        let value = PbValue { kind: Some(Kind::NumberValue(number)) };
        Struct { fields: [("number".to_owned(), value)].into() }
    }

    #[test]
    fn integers_have_no_fraction_and_numbers_that_are_not_finite_are_rejected() {
        let json = |double: f64| Value::Object(parse(number(double)).unwrap().as_object().clone()).to_string();
        assert_eq!(json(7.0), r#"{"number":7}"#);
        assert_eq!(json(-0.5), r#"{"number":-0.5}"#);
        for invalid in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(parse(number(invalid)).unwrap_err().reason, Reason::BadFormat);
        }
        let no_kind = Struct { fields: [("nothing".to_owned(), PbValue { kind: None })].into() };
        assert_eq!(parse(no_kind).unwrap_err().reason, Reason::BadFormat);
    }

    proptest! {
        #[test]
        fn every_finite_double_survives_a_round_trip_through_json(bits in any::<u64>()) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let text = Value::Object(parse(number(double)).unwrap().as_object().clone()).to_string();
            let Ok(Value::Object(read)) = serde_json::from_str(&text) else { panic!("{text}") };
            prop_assert_eq!(render(read), number(double));
        }
    }
}
