//! Every conversion between protobuf messages and the domain.
//!
//! Towards the domain a conversion parses, and reports all bad fields at once; the way back cannot fail. Here is what
//! both services show; the rest has a file for each of what it is about.

#![expect(clippy::needless_pass_by_value, reason = "a conversion takes the message, whatever it needs of it")]
#![expect(clippy::must_use_candidate, reason = "a conversion does nothing else")]

pub mod api_keys;
pub mod batches;
mod branding;
pub mod catalog;
pub mod integrity;
pub mod passwords;
pub mod provisioning;
pub mod tenants;

use prost_types::Timestamp;
use time::OffsetDateTime;

use super::pb;
use crate::domain::{BookingType, Package, Segment};

fn segment(segment: Segment) -> pb::Segment {
    pb::Segment {
        id: segment.id.to_string(),
        tenant_id: segment.tenant_id.to_string(),
        slug: segment.slug,
        name: segment.name,
        hero_title: segment.hero_title,
        description: segment.description,
        sort_order: segment.sort_order,
        active: segment.active,
        created_at: Some(timestamp(segment.created_at)),
        updated_at: Some(timestamp(segment.updated_at)),
    }
}

fn package(package: Package) -> pb::Package {
    pb::Package {
        id: package.id.to_string(),
        tenant_id: package.tenant_id.to_string(),
        segment_id: package.segment_id.to_string(),
        slug: package.slug,
        name: package.name,
        description: package.description,
        base_price: Some(package.base_price),
        booking_type: booking_type(package.booking_type).into(),
        grouping_order: package.grouping_order,
        active: package.active,
        created_at: Some(timestamp(package.created_at)),
        updated_at: Some(timestamp(package.updated_at)),
    }
}

const fn booking_type(booking_type: BookingType) -> pb::BookingType {
    match booking_type {
        BookingType::Date => pb::BookingType::Date,
        BookingType::Timeslot => pb::BookingType::Timeslot,
    }
}

fn timestamp(time: OffsetDateTime) -> Timestamp {
    // Nanoseconds within a second are below 2^30.
    Timestamp { seconds: time.unix_timestamp(), nanos: time.nanosecond().cast_signed() }
}
