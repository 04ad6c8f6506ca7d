//! What every new tenant starts with. The only place that knows: every path that makes or mends a tenant reads it here,
//! and the database has no default of its own for any of it.

use super::{booking_type::BookingType, commission::CommissionPercent};

/// The platform's share where the caller names none: 10.00 %.
pub const COMMISSION: CommissionPercent = match CommissionPercent::from_hundredths(1_000) {
    Some(commission) => commission,
    None => panic!("the default commission is within its range"),
};

/// The segment without which no storefront opens.
pub const SEGMENT: DefaultSegment = DefaultSegment {
    slug: "general",
    name: "General",
    hero_title: "Our Services",
    description: "Your main service offerings",
    sort_order: 0,
};

/// The packages a customer can book on the first day.
pub const PACKAGES: [DefaultPackage; 3] = [
    DefaultPackage {
        slug: "basic-package",
        name: "Basic Package",
        description: "Your starter option - perfect for budget-conscious clients",
        base_price: 0,
        grouping_order: 1,
    },
    DefaultPackage {
        slug: "standard-package",
        name: "Standard Package",
        description: "Our most popular option - great value for most clients",
        base_price: 0,
        grouping_order: 2,
    },
    DefaultPackage {
        slug: "premium-package",
        name: "Premium Package",
        description: "The full experience - for clients who want the best",
        base_price: 0,
        grouping_order: 3,
    },
];

pub const BOOKING_TYPE: BookingType = BookingType::Date;

/// Active from the start, as is every default package.
#[derive(Debug)]
pub struct DefaultSegment {
    pub slug: &'static str,
    pub name: &'static str,
    pub hero_title: &'static str,
    pub description: &'static str,
    pub sort_order: i32,
}

#[derive(Debug)]
pub struct DefaultPackage {
    pub slug: &'static str,
    pub name: &'static str,
    pub description: &'static str,
    /// Minor units (cents).
    pub base_price: i64,
    pub grouping_order: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DisplayName, Slug};

    #[test]
    fn the_defaults_keep_the_rules_that_callers_must_keep() {
        assert!(Slug::parse(SEGMENT.slug).is_ok() && DisplayName::parse(SEGMENT.name).is_ok());
        for package in &PACKAGES {
            assert!(Slug::parse(package.slug).is_ok() && DisplayName::parse(package.name).is_ok());
        }
    }
}
