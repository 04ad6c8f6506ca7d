//! Events: what changed, when and by whom. The statement of a change writes its events; this file has what readers
//! need: positions in the order of events, filters and requests.

use std::{fmt, str::FromStr, time::Duration};

use time::OffsetDateTime;

use super::{
    ids::TenantId,
    paging::{PageCursor, PageSize, PageTokenScope, micros_since_epoch},
    tenant_limit::TenantLimit,
    validation::{InvalidValue, Reason},
};

/// How long events are kept by default.
pub const DEFAULT_EVENT_RETENTION: Duration = Duration::from_hours(30 * 24);

/// Every type of event.
pub const EVENT_TYPES: [&str; 21] = [
    "tenant.created",
    "tenant.updated",
    "tenant.suspended",
    "tenant.reactivated",
    "tenant.deleted",
    "tenant.undeleted",
    "tenant.purged",
    "tenant.repaired",
    "tenant.adopted",
    "api_key.created",
    "api_key.rotated",
    "api_key.revoked",
    "owner.set",
    "owner.password_changed",
    "owner.email_verified",
    "segment.created",
    "segment.updated",
    "segment.deleted",
    "package.created",
    "package.updated",
    "package.deleted",
];

/// A change. `data` is a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub position: EventPosition,
    pub event_type: String,
    pub time: OffsetDateTime,
    pub tenant_id: TenantId,
    pub caller: String,
    pub trace_id: Option<String>,
    pub data: String,
}

/// The position of an event in the order of all events. Its text is the id of the event and a cursor after it; the
/// order of texts is that of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EventPosition {
    /// A history begins when a dump is restored in another cluster, whose transaction ids are unrelated.
    pub history: u16,
    /// Random for each history.
    pub tag: u32,
    pub xid: u64,
    pub id: u64,
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}{:08x}{:016x}{:016x}", self.history, self.tag, self.xid, self.id)
    }
}

impl FromStr for EventPosition {
    type Err = InvalidValue;

    /// # Errors
    /// `BAD_FORMAT`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_hex = text.len() == 44 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let digits = |from: usize, to: usize| {
            let part = text.get(from..to).filter(|_part| is_hex)?;
            u64::from_str_radix(part, 16).ok()
        };
        let parse = || {
            Some(Self {
                history: u16::try_from(digits(0, 4)?).ok()?,
                tag: u32::try_from(digits(4, 12)?).ok()?,
                xid: digits(12, 28)?,
                id: digits(28, 44)?,
            })
        };
        // Postgres has signed numbers, and neither a history nor an id grows that large.
        let position = parse().filter(|position| {
            i16::try_from(position.history).is_ok()
                && i64::try_from(position.xid).is_ok()
                && i64::try_from(position.id).is_ok()
        });
        let description = "must be a cursor of WatchEvents or ListTenants, or the id of an event";
        position.ok_or_else(|| InvalidValue::new(Reason::BadFormat, description))
    }
}

impl PageCursor for EventPosition {
    fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        str::from_utf8(bytes).ok()?.parse().ok()
    }
}

/// Which events a reader receives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// `None` for all tenants.
    pub tenants: Option<TenantLimit>,
    /// Empty for all types.
    pub types: Vec<&'static str>,
}

impl EventFilter {
    pub fn matches(&self, event: &Event) -> bool {
        let has_tenant = self.tenants.as_ref().is_none_or(|tenants| tenants.contains(event.tenant_id));
        has_tenant && (self.types.is_empty() || self.types.contains(&&*event.event_type))
    }
}

/// # Errors
/// `BAD_FORMAT` for an unknown type.
pub fn parse_event_type(text: &str) -> Result<&'static str, InvalidValue> {
    let known = EVENT_TYPES.into_iter().find(|known| *known == text);
    known.ok_or_else(|| InvalidValue::new(Reason::BadFormat, "must be types of events, such as tenant.created"))
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListEvents {
    pub filter: EventFilter,
    /// Inclusive.
    pub after: Option<OffsetDateTime>,
    /// Exclusive.
    pub before: Option<OffsetDateTime>,
    pub size: PageSize,
    /// Of the last event of the page before.
    pub position: Option<EventPosition>,
}

impl ListEvents {
    pub fn page_token_scope(&self) -> PageTokenScope {
        let tenants: Vec<_> = self.filter.tenants.iter().flat_map(TenantLimit::iter).collect();
        let times = [self.after, self.before].map(|time| time.map(micros_since_epoch));
        PageTokenScope::new(format!("ListEvents {tenants:?} {:?} {times:?}", self.filter.types))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvents {
    pub filter: EventFilter,
    /// `None` to begin now.
    pub cursor: Option<EventPosition>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = EventPosition> {
        let signed = 0..=i64::MAX.cast_unsigned();
        (0..=i16::MAX.cast_unsigned(), any::<u32>(), signed.clone(), signed)
            .prop_map(|(history, tag, xid, id)| EventPosition { history, tag, xid, id })
    }

    #[test]
    fn a_cursor_has_44_lowercase_hex_digits_and_numbers_that_postgres_has() {
        let position = EventPosition { history: 0xa, tag: u32::MAX, xid: 1, id: 2 };
        let (text, tag) = (position.to_string(), position.tag);
        let longer = format!("{text}0");
        for invalid in ["", &text[1..], &longer, &text.to_uppercase(), &text.replace("000a", "+00a")] {
            assert!(invalid.parse::<EventPosition>().is_err(), "{invalid}");
        }
        for too_large in [
            EventPosition { history: 1 << 15, tag, xid: 1, id: 2 },
            EventPosition { history: 1, tag, xid: 1 << 63, id: 2 },
            EventPosition { history: 1, tag, xid: 1, id: 1 << 63 },
        ] {
            assert!(too_large.to_string().parse::<EventPosition>().is_err(), "{too_large}");
        }
    }

    #[test]
    fn a_filter_matches_events_of_its_tenants_and_of_its_types() {
        let tenant_id = |number| TenantId::from_uuid(uuid::Uuid::from_u128(number));
        let filter = |tenants: &[u128], types: &[&'static str]| EventFilter {
            tenants: TenantLimit::new(tenants.iter().map(|number| tenant_id(*number))).ok(),
            types: types.to_vec(),
        };
        let event = Event {
            position: EventPosition::default(),
            event_type: "tenant.created".to_owned(),
            time: OffsetDateTime::UNIX_EPOCH,
            tenant_id: tenant_id(1),
            caller: String::new(),
            trace_id: None,
            data: String::new(),
        };
        let (created, deleted) = ("tenant.created", "tenant.deleted");
        for (tenants, types) in [(&[][..], &[][..]), (&[1, 2], &[]), (&[], &[deleted, created]), (&[1], &[created])] {
            assert!(filter(tenants, types).matches(&event), "{tenants:?} {types:?}");
        }
        for (tenants, types) in [(&[2][..], &[][..]), (&[], &[deleted]), (&[2], &[created]), (&[1], &[deleted])] {
            assert!(!filter(tenants, types).matches(&event), "{tenants:?} {types:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_parsed_as_it_was_written_and_texts_are_in_the_order_of_events(
            one in positions(), other in positions()
        ) {
            prop_assert_eq!(one.to_string().parse(), Ok(one));
            prop_assert_eq!(EventPosition::from_bytes(&one.to_bytes()), Some(one));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        }

        #[test]
        fn no_text_makes_the_parser_of_cursors_panic(text in "\\PC{0,50}|[0-9a-f]{44}") {
            if let Ok(position) = text.parse::<EventPosition>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }
}
