//! The list of tenants, in three orders (docs/adr/0015-lists-read-index-ranges.md).

use time::OffsetDateTime;

use super::{
    Store,
    tenants::{StoredLabels, into_tenant, select_tenants},
};
use crate::{
    domain::{
        ListTenants, Tenant, TenantId,
        paging::{ListRow, MAX_PAGE_BYTES, SlugCursor},
        tenant::TenantOrder,
    },
    error::{Error, Result},
};

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
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $6)
                                    UNION ALL
                                   (SELECT * FROM tenants
                                     WHERE NOT coalesce($4, false) AND NOT is_active AND deleted_at IS NULL
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $6)
                                    UNION ALL
                                   (SELECT * FROM tenants
                                     WHERE $5::bool
                                       AND coalesce($4, true) AND is_active AND deleted_at IS NOT NULL
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $6)
                                    UNION ALL
                                   (SELECT * FROM tenants
                                     WHERE $5
                                       AND NOT coalesce($4, false) AND NOT is_active AND deleted_at IS NOT NULL
                                       AND " + $after + " ORDER BY " + $order + " LIMIT $6)";
                $now, $position, $list.filter, $limit
            ),
            Some(tenants) => select_page!(
                $store,
                // MATERIALIZED: the planner must not search for them along an index in the order of the list.
                with: "WITH limited AS MATERIALIZED (SELECT * FROM tenants WHERE id = ANY($8))",
                order: $order,
                candidates: "SELECT * FROM limited
                              WHERE coalesce(is_active = $4::bool, true) AND (deleted_at IS NULL OR $5::bool)
                                AND " + $after;
                $now, $position, $list.filter, $limit, &tenants.iter().map(TenantId::as_uuid).collect::<Vec<_>>()
            ),
        }
    };
}

/// Selects the page at the beginning of the candidates.
macro_rules! select_page {
    (
        $store:expr,
        $(with: $with:tt,)?
        order: $order:tt,
        candidates: $candidate:tt $(+ $more:tt)*;
        $now:expr, $position:expr, $filter:expr, $limit:expr $(, $ids:expr)?
    ) => {{
        let (first, second) = $position;
        let rows = select_tenants!(
            $(with: $with,)?
            columns: r#", has_next AS "has_next!""#,
            from: "FROM (SELECT *, sum(bytes) OVER list - bytes AS bytes_before,
                          lead(true) OVER list IS NOT NULL AS has_next
                     FROM (SELECT *, octet_length(name) + branding_bytes + coalesce(octet_length(external_id), 0)
                                  + octet_length(labels::text) AS bytes
                             FROM (" + $candidate $(+ $more)* + ") AS in_state
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
            $filter.is_active,
            $filter.show_deleted,
            i64::try_from($limit).map_err(Error::internal)?,
            MAX_PAGE_BYTES,
            $($ids)?
        );
        let rows = rows.fetch_all(&mut $store.acquire("list_tenants").await?).await?;
        rows.into_iter().map(|row| Ok(ListRow { has_next: row.has_next, item: into_tenant!(row)? })).collect()
    }};
}

impl Store {
    /// Returns up to `limit` tenants, in the order of the list. `now` determines their usable keys.
    pub async fn list_tenants(
        &self,
        list: &ListTenants,
        limit: usize,
        now: OffsetDateTime,
    ) -> Result<Vec<ListRow<Tenant>>> {
        match &list.order {
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
