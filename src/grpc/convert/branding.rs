//! `google.protobuf.Struct` ↔ JSON.

use prost_types::{ListValue, Struct, Value as PbValue, value::Kind};
use serde_json::{Map, Number, Value};

use crate::domain::{Branding, InvalidValue, Reason};

/// # Errors
/// `BAD_FORMAT` for what JSON cannot say, and what [`Branding`] refuses.
pub(super) fn parse(message: Struct) -> Result<Branding, InvalidValue> {
    Branding::parse(object(message, Branding::MAX_DEPTH)?)
}

/// `levels` bounds the recursion, whatever the decoder let through.
fn object(message: Struct, levels: usize) -> Result<Map<String, Value>, InvalidValue> {
    let levels = levels.checked_sub(1).ok_or_else(Branding::too_deep)?;
    message.fields.into_iter().map(|(key, member)| Ok((key, value(member, levels)?))).collect()
}

fn value(message: PbValue, levels: usize) -> Result<Value, InvalidValue> {
    let no_json = |what| InvalidValue::new(Reason::BadFormat, what);
    match message.kind.ok_or_else(|| no_json("must not hold a value of no kind"))? {
        Kind::NullValue(_) => Ok(Value::Null),
        Kind::BoolValue(flag) => Ok(Value::Bool(flag)),
        Kind::NumberValue(number) => {
            json_number(number).map(Value::Number).ok_or_else(|| no_json("must hold finite numbers only"))
        }
        Kind::StringValue(text) => Ok(Value::String(text)),
        Kind::ListValue(list) => {
            let levels = levels.checked_sub(1).ok_or_else(Branding::too_deep)?;
            list.values.into_iter().map(|item| value(item, levels)).collect::<Result<_, _>>().map(Value::Array)
        }
        Kind::StructValue(inner) => object(inner, levels).map(Value::Object),
    }
}

/// Whole numbers without a fraction, as JavaScript and people write them. `None` for what is not finite.
fn json_number(number: f64) -> Option<Number> {
    /// Up to here every whole number is a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
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
        // Struct knows doubles alone, and so did whatever was stored from one.
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
    fn whole_numbers_have_no_fraction_and_what_is_not_finite_is_refused() {
        let json = |text: f64| Value::Object(parse(number(text)).unwrap().as_object().clone()).to_string();
        assert_eq!(json(7.0), r#"{"number":7}"#);
        assert_eq!(json(-0.5), r#"{"number":-0.5}"#);
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(parse(number(bad)).unwrap_err().reason, Reason::BadFormat);
        }
        let no_kind = Struct { fields: [("nothing".to_owned(), PbValue { kind: None })].into() };
        assert_eq!(parse(no_kind).unwrap_err().reason, Reason::BadFormat);
    }

    proptest! {
        #[test]
        fn every_finite_double_comes_back(bits in any::<u64>()) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let text = Value::Object(parse(number(double)).unwrap().as_object().clone()).to_string();
            let Ok(Value::Object(read)) = serde_json::from_str(&text) else { panic!("{text}") };
            prop_assert_eq!(render(read), number(double));
        }
    }
}
