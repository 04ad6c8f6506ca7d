//! Prices in minor units, without a currency.

use super::validation::{InvalidValue, Reason};

/// A price in minor units (cents), 0 … 1,000,000,000,000. 0 is a real price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(i64);

impl Price {
    pub const MAX: i64 = 1_000_000_000_000;

    pub fn parse(minor_units: i64) -> Result<Self, InvalidValue> {
        if (0..=Self::MAX).contains(&minor_units) {
            Ok(Self(minor_units))
        } else {
            Err(InvalidValue::new(Reason::OutOfRange, "must be between 0 and 1,000,000,000,000"))
        }
    }

    pub const fn minor_units(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_range_from_zero_to_the_maximum() {
        for (minor_units, is_price) in
            [(0, true), (Price::MAX, true), (-1, false), (Price::MAX + 1, false), (i64::MIN, false)]
        {
            assert_eq!(Price::parse(minor_units).is_ok(), is_price, "{minor_units}");
        }
    }
}
