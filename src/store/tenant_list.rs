//! The list of tenants, in three orders (docs/adr/0015-lists-read-index-ranges.md).

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{
    Store,
    tenants::{StoredLabels, into_tenant, select_tenants},
};
use crate::{
    domain::{
        ListTenants, Tenant, TenantId,
        paging::{ListRow, MAX_PAGE_BYTES, ScannedRow, SlugCursor},
        tenant::TenantOrder,
    },
    error::{Error, Result},
};

/// Upper bound of the tenants that a page reads if a filter has no index of its own. Such a page may have fewer tenants
/// than requested, or none, and still a next page.
const MAX_SCANNED: usize = 1_000;

/// Selects a page in one order, and converts its rows. `after` is the condition on its position, in `$2` and `$3`.
///
/// Each of the four states that a tenant can have (deleted or not, active or not) is one range of an index in this
/// order. The statement merges the ranges of the states that the filter selects, and reads no other row. Each range has
/// its own ORDER BY and LIMIT, so that this holds for every plan that Postgres may choose, whatever its statistics.
///
/// For a caller that is limited to tenants, another statement reads these, at most 100, by their ids and sorts them: in
/// the ranges of an index they could be anywhere.
macro_rules! list_tenants_in_order {
    ($store:expr, order: $order:tt, after: $after:tt, $now:expr, $position:expr, $list:expr, $limit:expr) => {
        match &$list.tenants {
            None => select_page!(
                $store,
                order: $order,
                candidates: "(SELECT * FROM tenants
                                     WHERE coalesce($4::bool, true) AND is_active AND deleted_at IS NULL
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $9)
                                    UNION ALL
                                   (SELECT * FROM tenants
                                     WHERE NOT coalesce($4, false) AND NOT is_active AND deleted_at IS NULL
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $9)
                                    UNION ALL
                                   (SELECT * FROM tenants
                                     WHERE $5::bool
                                       AND coalesce($4, true) AND is_active AND deleted_at IS NOT NULL
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $9)
                                    UNION ALL
                                   (SELECT * FROM tenants
                                     WHERE $5
                                       AND NOT coalesce($4, false) AND NOT is_active AND deleted_at IS NOT NULL
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $9)";
                $now, $position, $list, $limit
            ),
            Some(tenants) => select_page!(
                $store,
                // MATERIALIZED: the planner must not search for them along an index in the order of the list.
                with: "WITH limited AS MATERIALIZED (SELECT * FROM tenants WHERE id = ANY($10))",
                order: $order,
                candidates: "SELECT * FROM limited
                              WHERE coalesce(is_active = $4::bool, true) AND (deleted_at IS NULL OR $5::bool)
                                AND " + $after;
                $now, $position, $list, $limit, &tenants.iter().map(TenantId::as_uuid).collect::<Vec<_>>()
            ),
        }
    };
}

/// Selects a page of tenants with labels, as [`list_tenants_in_order!`]: the ranges are those of one label. The tenants
/// in them that lack another label are read, too, so that label is the rarest, as far as a page counts.
macro_rules! list_labeled_tenants_in_order {
    ($store:expr, order: $order:tt, ranges: $range_order:tt, $after:tt; $now:expr, $position:expr, $list:expr, $limit:expr) => {
        select_page!(
            $store,
            with: "WITH counted AS (
                SELECT key, value, number,
                       (SELECT count(*)
                          FROM (SELECT FROM tenant_labels
                                 WHERE tenant_labels.key = label.key AND tenant_labels.value = label.value
                                 LIMIT $9) AS first) AS tenants
                  FROM jsonb_each_text($8::jsonb) WITH ORDINALITY AS label (key, value, number)
            ), rarest AS MATERIALIZED (
                SELECT key, value FROM counted ORDER BY tenants, number LIMIT 1
            )",
            order: $order,
            candidates: "SELECT tenant.*, in_range.created_at AS labeled_at, in_range.tenant_id
                                     FROM ((SELECT * FROM tenant_labels
                                             WHERE key = (SELECT key FROM rarest) AND value = (SELECT value FROM rarest)
                                               AND coalesce($4::bool, true) AND is_active AND NOT is_deleted
                                               AND " + $after + " ORDER BY " + $range_order + " LIMIT $9)
                                            UNION ALL
                                           (SELECT * FROM tenant_labels
                                             WHERE key = (SELECT key FROM rarest) AND value = (SELECT value FROM rarest)
                                               AND NOT coalesce($4, false) AND NOT is_active AND NOT is_deleted
                                               AND " + $after + " ORDER BY " + $range_order + " LIMIT $9)
                                            UNION ALL
                                           (SELECT * FROM tenant_labels
                                             WHERE key = (SELECT key FROM rarest) AND value = (SELECT value FROM rarest)
                                               AND $5::bool
                                               AND coalesce($4, true) AND is_active AND is_deleted
                                               AND " + $after + " ORDER BY " + $range_order + " LIMIT $9)
                                            UNION ALL
                                           (SELECT * FROM tenant_labels
                                             WHERE key = (SELECT key FROM rarest) AND value = (SELECT value FROM rarest)
                                               AND $5
                                               AND NOT coalesce($4, false) AND NOT is_active AND is_deleted
                                               AND " + $after + " ORDER BY " + $range_order + " LIMIT $9)) AS in_range
                                    -- OFFSET 0: by their ids, as the owners below.
                                    CROSS JOIN LATERAL (SELECT * FROM tenants WHERE id = in_range.tenant_id OFFSET 0)
                                           AS tenant";
            $now, $position, $list, $limit
        )
    };
}

/// Selects the page at the beginning of the candidates: the first `$9` are read, and the last of these is a row of the
/// result, selected or not.
macro_rules! select_page {
    (
        $store:expr,
        $(with: $with:tt,)?
        order: $order:tt,
        candidates: $candidate:tt $(+ $more:tt)*;
        $now:expr, $position:expr, $list:expr, $limit:expr $(, $ids:expr)?
    ) => {{
        let (first, second) = $position;
        let rows = select_tenants!(
            $(with: $with,)?
            columns: r#", is_selected AS "is_selected!", has_next AS "has_next!""#,
            from: "FROM (SELECT *, sum(bytes) OVER list - bytes AS bytes_before,
                          is_scan_end OR lead(true) OVER list IS NOT NULL AS has_next
                     FROM (SELECT *, octet_length(name) + branding_bytes + coalesce(octet_length(external_id), 0)
                                  + octet_length(labels::text) AS bytes
                             FROM (SELECT *, labels @> $8::jsonb AS is_selected,
                                          row_number() OVER (ORDER BY " + $order + ") = $9 AS is_scan_end
                                     FROM (" + $candidate $(+ $more)* + ") AS in_state
                                    ORDER BY " + $order + "
                                    LIMIT $9) AS scanned
                            WHERE is_selected OR is_scan_end
                            ORDER BY " + $order + "
                            LIMIT $6) AS candidate
                   WINDOW list AS (ORDER BY " + $order + ")) AS tenants
             -- OFFSET 0: the planner must not read all owners at once, which is less work while there are few.
             LEFT JOIN LATERAL (SELECT email, email_verified_at, revision FROM owners WHERE tenant_id = tenants.id OFFSET 0)
                    AS owners ON true
            WHERE bytes_before < $7
            ORDER BY " + $order,
            $now,
            first,
            second,
            $list.filter.is_active,
            $list.filter.show_deleted,
            i64::try_from($limit).map_err(Error::internal)?,
            MAX_PAGE_BYTES,
            Json(&$list.filter.labels) as _,
            i64::try_from(scan_limit($list, $limit)).map_err(Error::internal)?,
            $($ids)?
        );
        let rows = rows.fetch_all(&mut $store.acquire("list_tenants").await?).await?;
        rows.into_iter()
            .map(|row| {
                let (has_next, is_selected) = (row.has_next, row.is_selected);
                Ok(ScannedRow { row: ListRow { item: into_tenant!(row)?, has_next }, is_selected })
            })
            .collect()
    }};
}

/// Returns how many tenants a page reads: as many as it has if an index selects them.
fn scan_limit(list: &ListTenants, limit: usize) -> usize {
    let filters = list.filter.labels.len() + usize::from(matches!(list.order, TenantOrder::SlugPrefix(..)));
    let is_selective = list.tenants.is_none() && filters <= 1;
    if is_selective { limit } else { limit.max(MAX_SCANNED) }
}

impl Store {
    /// Returns up to `limit` tenants, in the order of the list. `now` determines their usable keys.
    pub async fn list_tenants(
        &self,
        list: &ListTenants,
        limit: usize,
        now: OffsetDateTime,
    ) -> Result<Vec<ScannedRow<Tenant>>> {
        let by_label = list.tenants.is_none() && !list.filter.labels.is_empty();
        match &list.order {
            TenantOrder::OldestFirst(after) if by_label => list_labeled_tenants_in_order!(
                self,
                order: "labeled_at, tenant_id",
                ranges: "created_at, tenant_id",
                "(created_at, tenant_id) > (coalesce($2::timestamptz, '-infinity'),
                                            coalesce($3::uuid, '00000000-0000-0000-0000-000000000000'))";
                now,
                (after.map(|after| after.created_at), after.map(|after| after.id)),
                list,
                limit
            ),
            TenantOrder::NewestFirst(after) if by_label => list_labeled_tenants_in_order!(
                self,
                order: "labeled_at DESC, tenant_id DESC",
                ranges: "created_at DESC, tenant_id DESC",
                "(created_at, tenant_id) < (coalesce($2::timestamptz, 'infinity'),
                                            coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))";
                now,
                (after.map(|after| after.created_at), after.map(|after| after.id)),
                list,
                limit
            ),
            TenantOrder::OldestFirst(after) => list_tenants_in_order!(
                self,
                order: "created_at, id",
                after: "(created_at, id) > (coalesce($2::timestamptz, '-infinity'),
                                            coalesce($3::uuid, '00000000-0000-0000-0000-000000000000'))",
                now,
                (after.map(|after| after.created_at), after.map(|after| after.id)),
                list,
                limit
            ),
            TenantOrder::NewestFirst(after) => list_tenants_in_order!(
                self,
                order: "created_at DESC, id DESC",
                after: "(created_at, id) < (coalesce($2::timestamptz, 'infinity'),
                                            coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))",
                now,
                (after.map(|after| after.created_at), after.map(|after| after.id)),
                list,
                limit
            ),
            TenantOrder::SlugPrefix(prefix, after) => list_tenants_in_order!(
                self,
                order: "slug",
                // The slugs that begin with the prefix: `{` follows `z`, the last character of slugs.
                after: "slug >= $2::text AND slug < $2 || '{' AND slug > coalesce($3::text, '')",
                now,
                (prefix, after.as_ref().map(|SlugCursor(slug)| slug.as_str())),
                list,
                limit
            ),
        }
    }
}
