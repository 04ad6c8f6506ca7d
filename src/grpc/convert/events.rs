//! Messages about events.

use super::{api_keys::parse_timestamp, branding, convert, timestamp};
use crate::{
    domain::{
        StoredBranding, TenantId, TenantLimit, Violations,
        event::{Event, EventFilter, ListEvents, WatchEvents, parse_event_type},
        paging::{Page, PageSize},
    },
    grpc::{pb, tenant_access::LimitedRequest},
    service::EventUpdate,
};

impl TryFrom<LimitedRequest<pb::ListEventsRequest>> for ListEvents {
    type Error = Violations;

    fn try_from(request: LimitedRequest<pb::ListEventsRequest>) -> Result<Self, Violations> {
        let LimitedRequest { message, limit } = request;
        let mut fields = Violations::default();
        let filter = filter(&mut fields, message.tenant_id, limit, &message.types);
        let after = fields.check_optional("after", message.after, parse_timestamp);
        let before = fields.check_optional("before", message.before, parse_timestamp);
        let size = fields.check("page_size", PageSize::parse(message.page_size));
        let list = filter.zip(size).map(|(filter, size)| Self { filter, after, before, size, position: None });
        let list = list.and_then(|list| {
            let position = fields.check("page_token", list.page_token_scope().decode(&message.page_token))?;
            Some(Self { position, ..list })
        });
        fields.into_result(|| list)
    }
}

impl TryFrom<LimitedRequest<pb::WatchEventsRequest>> for WatchEvents {
    type Error = Violations;

    fn try_from(request: LimitedRequest<pb::WatchEventsRequest>) -> Result<Self, Violations> {
        let LimitedRequest { message, limit } = request;
        let mut fields = Violations::default();
        let filter = filter(&mut fields, message.tenant_id, limit, &message.types);
        let cursor = Some(message.cursor).filter(|cursor| !cursor.is_empty());
        let cursor = fields.check_optional("cursor", cursor, |cursor| cursor.parse());
        fields.into_result(|| Some(Self { filter: filter?, cursor }))
    }
}

/// Returns the filter for the tenant of the request, or for those that its caller is limited to.
fn filter(
    fields: &mut Violations,
    tenant_id: Option<String>,
    limit: Option<TenantLimit>,
    types: &[String],
) -> Option<EventFilter> {
    let tenant_id = fields.check_optional("tenant_id", tenant_id, |text| TenantId::parse(&text));
    let types = types.iter().map(|text| parse_event_type(text)).collect();
    let types = fields.check("types", types)?;
    Some(EventFilter { tenants: tenant_id.map(TenantLimit::one).or(limit), types })
}

impl From<Event> for pb::Event {
    fn from(event: Event) -> Self {
        Self {
            id: event.position.to_string(),
            r#type: event.event_type,
            time: Some(timestamp(event.time)),
            tenant_id: event.tenant_id.to_string(),
            caller: event.caller,
            trace_id: event.trace_id.unwrap_or_default(),
            data: Some(branding::render(&StoredBranding::from_json(event.data))),
        }
    }
}

impl From<Page<Event>> for pb::ListEventsResponse {
    fn from(page: Page<Event>) -> Self {
        Self { events: convert(page.items), next_page_token: page.next_page_token }
    }
}

impl From<EventUpdate> for pb::WatchEventsResponse {
    fn from(update: EventUpdate) -> Self {
        use pb::watch_events_response::Update;

        Self {
            update: Some(match update {
                EventUpdate::Event(event) => Update::Event(Event::clone(&event).into()),
                EventUpdate::Checkpoint(position) => {
                    Update::Checkpoint(pb::EventCheckpoint { cursor: position.to_string() })
                }
            }),
        }
    }
}
