//! How a customer books a package.

use serde::Deserialize;
use strum::{EnumString, IntoStaticStr};

/// By whole day, or by a time within a day.
///
/// As text it is the name in the database, which is the protobuf name without its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, EnumString, IntoStaticStr, Deserialize)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
pub enum BookingType {
    #[default]
    Date,
    Timeslot,
}

impl BookingType {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
