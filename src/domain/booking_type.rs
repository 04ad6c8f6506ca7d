//! How a customer books a package.

/// By whole day, or by a time within a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BookingType {
    #[default]
    Date,
    Timeslot,
}

impl BookingType {
    /// The name in the database, the same as on the wire without its prefix.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Date => "DATE",
            Self::Timeslot => "TIMESLOT",
        }
    }

    /// From its name in the database.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Date, Self::Timeslot].into_iter().find(|known| known.as_str() == name)
    }
}
