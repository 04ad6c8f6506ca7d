//! The defaults of a new tenant: commission, General segment, packages and booking type.
//!
//! No other file contains these values. Creation and repair both read them here, and the schema has no defaults for
//! them; only its trigger repeats the slug `general`.

use super::{booking_type::BookingType, commission::CommissionPercent};

/// The commission of a tenant whose request has none: 10.00 %.
pub const COMMISSION: CommissionPercent = match CommissionPercent::from_hundredths(1_000) {
    Some(commission) => commission,
    None => panic!("the default commission is within its range"),
};

/// The General segment, which every tenant has.
pub const SEGMENT: DefaultSegment = DefaultSegment {
    slug: "general",
    name: "General",
    hero_title: "Our Services",
    description: "Your main service offerings",
    sort_order: 0,
};

/// The packages of a new tenant.
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

/// The number of [`PACKAGES`], in the type of a segment's count.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "it is small")]
pub const PACKAGE_COUNT: i32 = PACKAGES.len() as i32;

pub const BOOKING_TYPE: BookingType = BookingType::Date;

/// The values of [`SEGMENT`]. The segment is created active.
#[derive(Debug)]
pub struct DefaultSegment {
    pub slug: &'static str,
    pub name: &'static str,
    pub hero_title: &'static str,
    pub description: &'static str,
    pub sort_order: i32,
}

/// The values of one of [`PACKAGES`]. The package is created active.
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
    fn default_slugs_and_names_pass_the_validation_of_requests() {
        assert!(Slug::parse(SEGMENT.slug).is_ok() && DisplayName::parse(SEGMENT.name).is_ok());
        for package in &PACKAGES {
            assert!(Slug::parse(package.slug).is_ok() && DisplayName::parse(package.name).is_ok());
        }
    }
}
