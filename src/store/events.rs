//! Reads events and deletes those whose retention is over. The statements of changes write them.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{
        TenantId,
        event::{Event, EventPosition, ListEvents},
        paging::Page,
    },
    error::{Error, Result},
};

/// How many events a page of a list examines. A page with a filter of types can be shorter, or empty.
const EXAMINED_EVENTS: i64 = 2_000;
/// By how much the time of an event can differ from that of its neighbors. Replicas have clocks of their own, and a
/// transaction can take its time.
const MAX_TIME_DIFFERENCE: Duration = Duration::hours(1);

/// Events after a position, in order.
#[derive(Debug)]
pub struct EventsRead {
    pub events: Vec<Event>,
    /// That of the last event, or the position from which was read.
    pub end: EventPosition,
}

impl Store {
    /// Returns the position after which all events follow that can still be committed, and maybe some that are.
    pub async fn last_event_position(&self) -> Result<EventPosition> {
        let row = sqlx::query!(
            r#"
            SELECT number AS "number!", tag AS "tag!", last.xid::text::int8 AS "xid?", last.id AS "id?"
              FROM (SELECT * FROM event_histories ORDER BY number DESC LIMIT 1) AS history
              LEFT JOIN LATERAL (
                    SELECT xid, id
                      FROM events
                     WHERE events.history = history.number AND xid < pg_snapshot_xmin(pg_current_snapshot())
                     ORDER BY xid DESC, id DESC
                     LIMIT 1) AS last ON true
            "#
        )
        .fetch_one(&mut self.acquire("last_event_position").await?)
        .await?;
        position(row.number, row.tag, row.xid.unwrap_or_default(), row.id.unwrap_or_default())
    }

    /// Returns up to `limit` events after this position, of those before which nothing can be committed any more.
    ///
    /// # Errors
    /// [`Error::CursorExpired`] if the position is of another history, or if events after it have been deleted.
    pub async fn read_events(&self, after: EventPosition, limit: i64) -> Result<EventsRead> {
        let rows = sqlx::query!(
            r#"
            WITH history AS MATERIALIZED (
                SELECT *, pg_snapshot_xmin(pg_current_snapshot()) AS oldest_open
                  FROM event_histories
                 ORDER BY number DESC
                 LIMIT 1
            )
            SELECT number AS "number!", tag AS "tag!",
                   $1::int8::text::xid8 < deleted_through
                   -- The commit of the event was lost: by a failover to a standby that lagged behind, for example.
                   OR $1::int8::text::xid8 >= pg_snapshot_xmax(pg_current_snapshot()) AS "is_expired!",
                   event.xid::text::int8 AS "xid?", event.id AS "id?", event.type AS "event_type?",
                   event.time AS "time?", event.tenant_id AS "tenant_id?", event.caller AS "caller?", event.trace_id,
                   event.data::text AS data
              FROM history
              LEFT JOIN LATERAL (
                    SELECT *
                      FROM events
                     WHERE events.history = history.number
                       AND (events.xid, events.id) > ($1::int8::text::xid8, $2::int8) AND events.xid < oldest_open
                     ORDER BY events.xid, events.id
                     LIMIT $3) AS event ON true
             ORDER BY event.xid, event.id
            "#,
            signed(after.xid)?,
            signed(after.id)?,
            limit,
        )
        .fetch_all(&mut self.acquire("read_events").await?)
        .await?;
        let mut read = EventsRead { events: Vec::with_capacity(rows.len()), end: after };
        for row in rows {
            let start = position(row.number, row.tag, 0, 0)?;
            if row.is_expired || (start.history, start.tag) != (after.history, after.tag) {
                return Err(Error::CursorExpired);
            }
            // Without events there is one row, of the history alone.
            let (Some(xid), Some(id)) = (row.xid, row.id) else { continue };
            let position = position(row.number, row.tag, xid, id)?;
            let missing = || Error::internal("an event lacks a column");
            read.events.push(Event {
                position,
                event_type: row.event_type.ok_or_else(missing)?,
                time: row.time.ok_or_else(missing)?,
                tenant_id: TenantId::from_uuid(row.tenant_id.ok_or_else(missing)?),
                caller: row.caller.ok_or_else(missing)?,
                trace_id: row.trace_id,
                data: row.data.ok_or_else(missing)?,
            });
            read.end = position;
        }
        Ok(read)
    }

    /// Returns one page of events, those of earlier histories included. It examines a bounded number of them, so a page
    /// with a filter of types or times can be shorter than requested, or empty, although more follow.
    pub async fn list_events(&self, list: &ListEvents) -> Result<Page<Event>> {
        let tenants: Option<Vec<Uuid>> =
            list.filter.tenants.as_ref().map(|tenants| tenants.iter().map(TenantId::as_uuid).collect());
        let start = list.position.unwrap_or_default();
        let starts_at_time = list.after.is_some() && list.position.is_none();
        let rows = sqlx::query_as!(
            ListedRow,
            r#"
            WITH current AS MATERIALIZED (
                SELECT max(number) AS number, pg_snapshot_xmin(pg_current_snapshot()) AS oldest_open FROM event_histories
            ), start AS MATERIALIZED (
                -- The position to continue after. The first page begins at about the time from which events are requested.
                SELECT $2::int2 AS history, $3::int8::text::xid8 AS xid, $4::int8 AS id WHERE NOT $5::bool
                 UNION ALL
                (SELECT history, xid, id - 1
                   FROM events
                  WHERE $5 AND time >= $6::timestamptz - $9::interval
                  ORDER BY time LIMIT 1)
            ), examined AS MATERIALIZED (
                -- One of the two parts is empty.
                SELECT event.*
                  FROM start
                 CROSS JOIN LATERAL (
                       (SELECT *
                          FROM events
                         WHERE $1::uuid[] IS NULL AND (history, xid, id) > (start.history, start.xid, start.id)
                         ORDER BY history, xid, id
                         LIMIT $10)
                        UNION ALL
                       (SELECT of_tenant.*
                          FROM unnest($1) AS tenant (id)
                         CROSS JOIN LATERAL (
                               SELECT *
                                 FROM events
                                WHERE events.tenant_id = tenant.id
                                  AND (history, xid, events.id) > (start.history, start.xid, start.id)
                                ORDER BY history, xid, events.id
                                LIMIT $10) AS of_tenant
                         ORDER BY history, xid, of_tenant.id
                         LIMIT $10)) AS event
                 CROSS JOIN current
                 WHERE event.history < current.number OR event.xid < oldest_open
            ), matched AS (
                SELECT *, ($8::text[] IS NULL OR type = ANY($8)) AND ($6 IS NULL OR time >= $6)
                          AND ($7::timestamptz IS NULL OR time < $7) AS is_match
                  FROM examined
            ), numbered AS (
                SELECT *, count(*) OVER () AS examined_count, row_number() OVER list AS number,
                       count(*) FILTER (WHERE is_match) OVER list AS match_number
                  FROM matched
                WINDOW list AS (ORDER BY history, xid, id)
            )
            SELECT history AS "history!", tag AS "tag!", xid::text::int8 AS "xid!", id AS "id!", type AS "event_type!",
                   time AS "time!", tenant_id AS "tenant_id!", caller AS "caller!", trace_id, data::text AS "data!",
                    is_match AND match_number <= $11 AS "is_listed!",
                   examined_count AS "examined_count!"
              FROM numbered
              JOIN event_histories ON event_histories.number = history
             -- Also the last that was examined, at which the next page may have to begin.
             WHERE (is_match AND match_number <= $11) OR numbered.number = examined_count
             ORDER BY numbered.number
            "#,
            tenants.as_deref() as _,
            i16::try_from(start.history).map_err(Error::internal)?,
            signed(start.xid)?,
            signed(start.id)?,
            starts_at_time,
            list.after,
            list.before,
            (!list.filter.types.is_empty()).then_some(list.filter.types.as_slice()) as _,
            MAX_TIME_DIFFERENCE as _,
            EXAMINED_EVENTS,
            i64::try_from(list.size.get()).map_err(Error::internal)?,
        )
        .fetch_all(&mut self.acquire("list_events").await?)
        .await?;
        into_page(rows, list)
    }

    /// Deletes up to `limit` of the events before this time, and makes the cursors before them expire. Returns whether
    /// there may be more.
    pub async fn delete_expired_events(&self, before: OffsetDateTime, limit: i64) -> Result<bool> {
        let deleted = sqlx::query_scalar!(
            r#"
            WITH expired AS MATERIALIZED (
                SELECT history, xid, id
                  FROM events
                 WHERE time < $1
                 ORDER BY time
                 LIMIT $2
            ), deleted AS (
                DELETE FROM events
                 USING expired
                 WHERE (events.history, events.xid, events.id) = (expired.history, expired.xid, expired.id)
                RETURNING events.history, events.xid
            ), new_bound AS (
                UPDATE event_histories
                   SET deleted_through = greatest(deleted_through, last_xid)
                  FROM (SELECT history, max(xid::text::int8)::text::xid8 AS last_xid FROM deleted GROUP BY history) AS last
                 WHERE number = last.history
            )
            SELECT count(*) AS "deleted!" FROM deleted
            "#,
            before,
            limit,
        )
        .fetch_one(&mut self.acquire("delete_expired_events").await?)
        .await?;
        Ok(deleted == limit)
    }
}

/// An event of a list, or the last one that was examined.
struct ListedRow {
    history: i16,
    tag: i64,
    xid: i64,
    id: i64,
    event_type: String,
    time: OffsetDateTime,
    tenant_id: Uuid,
    caller: String,
    trace_id: Option<String>,
    data: String,
    is_listed: bool,
    examined_count: i64,
}

fn into_page(rows: Vec<ListedRow>, list: &ListEvents) -> Result<Page<Event>> {
    let mut page = Page { items: Vec::with_capacity(rows.len()), next_page_token: String::new() };
    let (mut may_continue, mut examined) = (false, None);
    for row in rows {
        let at = position(row.history, row.tag, row.xid, row.id)?;
        // Events are about in the order of their times.
        let is_over = list.before.is_some_and(|before| row.time >= before + MAX_TIME_DIFFERENCE);
        may_continue = row.examined_count == EXAMINED_EVENTS && !is_over;
        examined = Some(at);
        if row.is_listed {
            page.items.push(Event {
                position: at,
                event_type: row.event_type,
                time: row.time,
                tenant_id: TenantId::from_uuid(row.tenant_id),
                caller: row.caller,
                trace_id: row.trace_id,
                data: row.data,
            });
        }
    }
    // A full page can end before the last event that was examined.
    let last_item = page.items.last().map(|event| event.position);
    let is_full = page.items.len() == list.size.get();
    let next = if is_full && last_item != examined { last_item } else { examined.filter(|_end| may_continue) };
    if let Some(next) = next {
        page.next_page_token = list.page_token_scope().encode(&next);
    }
    Ok(page)
}

fn position(history: i16, tag: i64, xid: i64, id: i64) -> Result<EventPosition> {
    Ok(EventPosition {
        history: u16::try_from(history).map_err(Error::internal)?,
        tag: u32::try_from(tag).map_err(Error::internal)?,
        xid: u64::try_from(xid).map_err(Error::internal)?,
        id: u64::try_from(id).map_err(Error::internal)?,
    })
}

fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(Error::internal)
}
