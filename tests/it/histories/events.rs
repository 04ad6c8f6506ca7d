//! The events of all tenants, those that purges deleted included. An archive keeps the latter for the checker alone:
//! the service does not know of it.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{Struct, Value, value::Kind};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use turnkey::grpc::pb::Event;

use super::model::Change;
use crate::support::database::execute;

const CREATE_ARCHIVE: &str = "
    CREATE TABLE purged_events (LIKE events);
    CREATE FUNCTION archive_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO purged_events VALUES (OLD.*);
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER archive_event AFTER DELETE ON events FOR EACH ROW EXECUTE FUNCTION archive_event()";

pub async fn create_archive(superuser: &PgConnectOptions) {
    execute(superuser, CREATE_ARCHIVE).await;
}

/// The changes of each tenant, in their order, by its id.
pub struct Changes {
    by_tenant: BTreeMap<String, Vec<Change>>,
    /// The ids, in the order of the first events.
    tenants: Vec<String>,
}

impl Changes {
    /// Reads the archive, and adds the events that are listed: of a purged tenant, its purge.
    pub async fn read(superuser: &PgConnectOptions, listed: &[Event]) -> Self {
        let mut changes = Self { by_tenant: BTreeMap::new(), tenants: Vec::new() };
        let mut connection = superuser.connect().await.unwrap();
        let rows: Vec<(String, String, String)> =
            sqlx::query_as("SELECT type, tenant_id::text, data::text FROM purged_events ORDER BY history, xid, id")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        for (r#type, tenant_id, data) in rows {
            changes.add(&Event { r#type, tenant_id, data: Some(parse(&data)), ..Event::default() });
        }
        for event in listed {
            changes.add(event);
        }
        changes
    }

    fn add(&mut self, event: &Event) {
        let id = &event.tenant_id;
        let changes = self.by_tenant.entry(id.clone()).or_insert_with(|| {
            self.tenants.push(id.clone());
            Vec::new()
        });
        changes.push(Change::of(event));
    }

    /// The changes by the slug with which a tenant was created. Several tenants have a slug one after the other, if
    /// each was purged before the next one was created.
    pub fn by_slug(&self) -> BTreeMap<String, Vec<Change>> {
        let mut by_slug: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        for changes in self.tenants.iter().map(|id| &self.by_tenant[id]) {
            assert_eq!(changes[0].kind, "tenant.created");
            let slug = changes[0].get("slug").unwrap().to_owned();
            let earlier = by_slug.entry(slug.clone()).or_default();
            let is_free = earlier.last().is_none_or(|last| last.kind == "tenant.purged");
            assert!(is_free, "{slug} was created twice");
            earlier.extend(changes.iter().cloned());
        }
        by_slug
    }

    /// Compares what a watcher saw with the list. It can have seen events before a purge deleted them: the first ones
    /// of that tenant.
    pub fn check_watched(&self, seen: &[Event], listed: &[Event]) {
        let is_purge = |event: &Event| event.r#type == "tenant.purged";
        let purged: BTreeSet<&str> =
            listed.iter().filter(|event| is_purge(event)).map(|event| event.tenant_id.as_str()).collect();
        let is_deleted = |event: &&Event| purged.contains(&*event.tenant_id) && !is_purge(event);
        let (deleted, left): (Vec<&Event>, Vec<&Event>) = seen.iter().partition(is_deleted);
        assert!(left.iter().copied().eq(listed), "a watcher saw {} events instead of {}", left.len(), listed.len());
        let mut seen_of_tenant: BTreeMap<&str, Vec<Change>> = BTreeMap::new();
        for event in deleted {
            seen_of_tenant.entry(&event.tenant_id).or_default().push(Change::of(event));
        }
        for (id, seen) in seen_of_tenant {
            assert!(self.by_tenant[id].starts_with(&seen), "{id}: a watcher saw other events: {seen:?}");
        }
    }
}

/// The data of an event, without its lists.
fn parse(data: &str) -> Struct {
    let data: BTreeMap<String, serde_json::Value> = serde_json::from_str(data).unwrap();
    let kind = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Some(Kind::StringValue(text)),
        serde_json::Value::Number(number) => number.as_f64().map(Kind::NumberValue),
        serde_json::Value::Bool(is_true) => Some(Kind::BoolValue(is_true)),
        _ => None,
    };
    let fields = data.into_iter().map(|(name, value)| (name, Value { kind: kind(value) }));
    Struct { fields: fields.collect() }
}
