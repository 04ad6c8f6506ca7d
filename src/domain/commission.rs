//! The platform's share of each booking.

use super::validation::{InvalidValue, Reason};

/// A commission in percent, 0.00 … 100.00, exact to two decimals.
///
/// Stored as whole hundredths, because a binary fraction cannot represent 12.34.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommissionPercent {
    hundredths: u16,
}

impl CommissionPercent {
    const MAX_HUNDREDTHS: u16 = 10_000;

    /// Creates a commission from hundredths of a percent: 1234 is 12.34 %. Returns `None` above 100 %.
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths <= Self::MAX_HUNDREDTHS { Some(Self { hundredths }) } else { None }
    }

    /// Parses a percentage.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` outside 0 … 100; `BAD_FORMAT` for NaN and for more than two decimals.
    pub fn parse(percent: f64) -> Result<Self, InvalidValue> {
        if percent.is_nan() {
            return Err(InvalidValue::new(Reason::BadFormat, "must be a number"));
        }
        if !(0.0..=100.0).contains(&percent) {
            return Err(InvalidValue::new(Reason::OutOfRange, "must be between 0 and 100"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range check leaves 0 … 10000")]
        let parsed = Self { hundredths: (percent * 100.0).round() as u16 };
        // A literal with two decimals is parsed to the nearest double, and dividing the hundredths by 100 is rounded to
        // the same double. A tolerance would accept 12.3400001.
        #[expect(clippy::float_cmp, reason = "both are the double nearest to the same decimal")]
        let has_two_decimals = parsed.as_f64() == percent;
        if has_two_decimals {
            Ok(parsed)
        } else {
            Err(InvalidValue::new(Reason::BadFormat, "must have at most two decimals"))
        }
    }

    pub const fn hundredths(self) -> u16 {
        self.hundredths
    }

    pub fn as_f64(self) -> f64 {
        f64::from(self.hundredths) / 100.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(percent: f64) -> Option<Reason> {
        CommissionPercent::parse(percent).err().map(|invalid| invalid.reason)
    }

    #[test]
    fn a_commission_out_of_range_or_with_too_many_decimals_is_rejected_with_its_reason() {
        for (percent, expected) in [
            (0.0, None),
            (-0.0, None),
            (100.0, None),
            (12.34, None),
            (99.99, None),
            (0.01, None),
            (12.345, Some(Reason::BadFormat)),
            (0.001, Some(Reason::BadFormat)),
            (99.999, Some(Reason::BadFormat)),
            (f64::from(12.34_f32), Some(Reason::BadFormat)),
            (f64::NAN, Some(Reason::BadFormat)),
            (f64::MIN_POSITIVE, Some(Reason::BadFormat)),
            (-0.01, Some(Reason::OutOfRange)),
            (100.01, Some(Reason::OutOfRange)),
            (f64::INFINITY, Some(Reason::OutOfRange)),
            (f64::NEG_INFINITY, Some(Reason::OutOfRange)),
        ] {
            assert_eq!(reason(percent), expected, "{percent}");
        }
    }

    #[test]
    fn every_percentage_with_two_decimals_is_parsed_exactly() {
        for hundredths in 0..=10_000 {
            let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            let parsed = CommissionPercent::parse(text.parse().unwrap()).unwrap();
            assert_eq!(parsed.hundredths(), hundredths, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_double_as_a_commission_never_panics_or_exceeds_100(percent in proptest::num::f64::ANY) {
            if let Ok(parsed) = CommissionPercent::parse(percent) {
                prop_assert!(parsed.hundredths() <= 10_000);
            }
        }
    }
}
