//! Creates and updates packages, one or many, all or none. `slug_search.rs` chooses the slugs of items without
//! one; `packages.rs` reads and deletes packages.

use std::num::NonZeroU32;

use time::OffsetDateTime;

use super::{
    Store, column,
    error::is_constraint_violation,
    packages::PackageRow,
    pool::PooledConnection,
    slug_search::{SluggedTable, generate_slugs},
};
use crate::{
    domain::{
        Actor, BookingType, Description, DisplayName, ExternalId, PackageId, Price, SegmentId, Slug, TenantId,
        catalog::{PackageUpsert, PackageUpsertFailure, PackageUpsertOutcome, UpsertResult},
        defaults,
        response_size::{MAX_RESPONSE_BYTES, packages_response_bytes},
    },
    error::{Error, Resource, Result},
};

/// Ids for what an upsert of packages may create. A package with one of these ids is new.
#[derive(Debug)]
pub struct NewPackageIds {
    /// One for each item.
    pub packages: Vec<PackageId>,
    /// For the General segment, if it is missing.
    pub general_segment: SegmentId,
}

impl Store {
    /// Creates or updates packages, all or none. No item creates a package if the tenant would then have more than
    /// `max_packages`.
    ///
    /// A dry run executes the same statement and rolls it back, so its checks and its outcome are those of a real run.
    /// No other transaction sees what was rolled back, and the lock keeps the tenant's other changes waiting until
    /// then.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant, [`Error::Conflict`] if a transaction outside this service, which takes no
    /// lock, has used one of the slugs or external ids meanwhile.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the change")]
    pub async fn upsert_packages(
        &self,
        tenant_id: TenantId,
        items: &[PackageUpsert],
        new_ids: &NewPackageIds,
        max_packages: NonZeroU32,
        actor: &Actor,
        now: OffsetDateTime,
        dry_run: bool,
    ) -> Result<PackageUpsertOutcome> {
        let mut transaction = self.begin_as_catalog("upsert_packages", tenant_id).await?;
        let connection = transaction.connection();
        let generated_slugs = choose_slugs(connection, tenant_id, items).await?;
        let rows = upsert(connection, tenant_id, items, &generated_slugs, new_ids, max_packages, actor, now).await;
        let rows = match rows {
            Err(error)
                if is_constraint_violation(&error, "packages_slug_key")
                    || is_constraint_violation(&error, "packages_external_id_key") =>
            {
                return Err(Error::Conflict);
            }
            rows => rows?,
        };
        let outcome = outcome(rows, tenant_id, new_ids);
        if matches!(outcome, Ok(Ok(_))) && !dry_run {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        outcome
    }
}

/// Chooses a slug for each item without one. It differs from the slugs that other items request.
async fn choose_slugs(
    connection: &mut PooledConnection,
    tenant_id: TenantId,
    items: &[PackageUpsert],
) -> Result<Vec<Option<Slug>>> {
    let stems = items.iter().filter_map(|item| item.target.stem());
    let requested = items.iter().filter_map(|item| item.target.slug()).map(str::to_owned).collect();
    let slugs = generate_slugs(connection, SluggedTable::Packages, tenant_id, stems, requested).await?;
    let mut slugs = slugs.into_iter();
    Ok(items.iter().map(|item| item.target.stem().and_then(|_stem| slugs.next())).collect())
}

/// Returns one row for each item, in order, or none if the tenant does not exist. An item with an error is not
/// written; the caller rolls back the others. If the only item is an update, the package before it follows.
///
/// The statement checks and writes under the tenant's lock, so that nothing changes in between.
#[expect(clippy::too_many_lines, clippy::too_many_arguments, reason = "a single SQL statement")]
async fn upsert(
    connection: &mut PooledConnection,
    tenant_id: TenantId,
    items: &[PackageUpsert],
    generated_slugs: &[Option<Slug>],
    new_ids: &NewPackageIds,
    max_packages: NonZeroU32,
    actor: &Actor,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<PackageRow>> {
    let general = &defaults::SEGMENT;
    sqlx::query_as!(
        PackageRow,
        r#"
        WITH item AS (
            -- One row for each item. The subquery hides their number from the planner, which would otherwise
            -- prefer a custom plan for each execution, and planning costs more than the statement.
            SELECT *
              FROM unnest((SELECT $2::uuid[]), $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[],
                          $8::int8[], $9::text[]::booking_type[], $10::bool[], $11::int4[], $12::uuid[], $23::uuid[], $24::text[])
                   WITH ORDINALITY AS item (new_id, package_id, slug, generated_slug, name, description,
                                            base_price, booking_type, active, grouping_order, segment_id, etag,
                                            external_id, number)
        ), found AS MATERIALIZED (
            -- The items with the rows that they name; no rows if the tenant does not exist. These are subqueries, and
            -- not joins, for which Postgres might read all packages of the tenant.
            SELECT item.*,
                   (SELECT id FROM packages WHERE packages.tenant_id = $1 AND packages.id = item.package_id) AS by_id,
                   (SELECT id FROM packages WHERE packages.tenant_id = $1 AND packages.slug = item.slug) AS by_slug,
                   CASE WHEN item.external_id IS NOT NULL
                        THEN (SELECT id FROM packages
                               WHERE packages.tenant_id = $1 AND packages.external_id = item.external_id)
                   END AS by_external_id,
                   (SELECT id FROM segments WHERE segments.tenant_id = $1 AND segments.id = item.segment_id)
                       AS found_segment_id
              FROM item
             WHERE EXISTS (SELECT 1 FROM tenants WHERE id = $1 AND deleted_at IS NULL)
        ), target AS (
            -- The existing package of each item, if there is one. The first occurrence of a package is valid.
            SELECT *, row_number() OVER (PARTITION BY target_id ORDER BY number) AS occurrence
              FROM (SELECT *, CASE WHEN package_id IS NULL THEN coalesce(by_external_id, by_slug) ELSE by_id END AS target_id
                      FROM found) AS item
        ), usage AS MATERIALIZED (
            -- What the tenant has. The rows are counted only if it has no counters.
            SELECT coalesce(package_count, (SELECT count(*) FROM packages WHERE tenant_id = $1)) AS package_count,
                   coalesce(segment_count, (SELECT count(*) FROM segments WHERE tenant_id = $1)) AS segment_count
              FROM (SELECT) AS one_row
              LEFT JOIN tenant_usage ON tenant_usage.tenant_id = $1
        ), checked_item AS (
            SELECT *,
                   CASE
                       WHEN package_id IS NOT NULL AND by_id IS NULL THEN 'NOT_FOUND'
                       WHEN etag IS NOT NULL
                            AND NOT EXISTS (SELECT 1 FROM packages
                                             WHERE packages.tenant_id = $1 AND packages.id = target_id
                                               AND coalesce(packages.revision, packages.id) = etag)
                           THEN 'ETAG_MISMATCH'
                       WHEN target_id IS NULL
                            AND (name IS NULL OR base_price IS NULL OR coalesce(slug, generated_slug) IS NULL)
                           THEN 'INCOMPLETE'
                       WHEN target_id IS NOT NULL AND occurrence > 1 THEN 'DUPLICATE'
                       WHEN segment_id IS NOT NULL AND found_segment_id IS NULL THEN 'SEGMENT_NOT_FOUND'
                       WHEN external_id IS NOT NULL
                            AND external_id <> (SELECT packages.external_id FROM packages
                                             WHERE packages.tenant_id = $1 AND packages.id = target_id)
                           THEN 'EXTERNAL_ID_SET'
                       WHEN by_external_id <> target_id OR (by_slug <> target_id AND package_id IS NULL)
                           THEN 'EXTERNAL_ID_TAKEN'
                       WHEN by_slug <> target_id THEN 'SLUG_TAKEN'
                   END AS item_error
              FROM target
        ), validated_item AS MATERIALIZED (
            -- The items with their targets and errors. If there are too many new packages, each of them has an error.
            SELECT checked_item.*,
                   CASE
                       WHEN item_error IS NULL AND target_id IS NULL
                            AND package_count + count(*) FILTER (WHERE item_error IS NULL AND target_id IS NULL) OVER ()
                                > $21 THEN 'QUOTA_EXCEEDED'
                       ELSE item_error
                   END AS error
              FROM checked_item
             CROSS JOIN usage
        ), new_general AS (
            -- The General segment, if a new package belongs to it and it is missing. It is exempt from the quota.
            INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                  created_at, updated_at, package_count)
            SELECT $1, $13, $14, $15, $16, $17, $18, true, $19, $19, packages
              FROM (SELECT count(*) AS packages FROM validated_item
                     WHERE error IS NULL AND target_id IS NULL AND segment_id IS NULL) AS new
             WHERE packages > 0
               AND NOT EXISTS (SELECT 1 FROM segments WHERE tenant_id = $1 AND slug = $14)
            RETURNING id
        ), inserted AS (
            -- The new packages. One without a grouping order follows all packages and items that have one.
            INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                  grouping_order, active, created_at, updated_at, external_id)
            SELECT $1, new_id,
                   coalesce(segment_id,
                            (SELECT id FROM segments WHERE tenant_id = $1 AND slug = $14),
                            (SELECT id FROM new_general)),
                   coalesce(slug, generated_slug), name, coalesce(description, ''), base_price,
                   coalesce(booking_type, $20::text::booking_type),
                   coalesce(grouping_order,
                            least(2147483647,
                                  coalesce(greatest((SELECT grouping_order FROM packages
                                                      WHERE tenant_id = $1 AND active
                                                      ORDER BY grouping_order DESC LIMIT 1),
                                                    (SELECT grouping_order FROM packages
                                                      WHERE tenant_id = $1 AND NOT active
                                                      ORDER BY grouping_order DESC LIMIT 1),
                                                    (SELECT max(grouping_order) FROM item)), 0)::int8
                                  + row_number() OVER (PARTITION BY grouping_order IS NULL ORDER BY number)))::int4,
                   coalesce(active, true), $19, $19, external_id
              FROM validated_item
             WHERE error IS NULL AND target_id IS NULL
            RETURNING *
        ), new_usage AS (
            INSERT INTO tenant_usage (tenant_id, package_count, segment_count)
            SELECT $1, package_count + (SELECT count(*) FROM inserted), segment_count + (SELECT count(*) FROM new_general)
              FROM usage
             WHERE EXISTS (SELECT 1 FROM inserted)
            ON CONFLICT ON CONSTRAINT tenant_usage_pkey DO UPDATE
               SET package_count = excluded.package_count, segment_count = excluded.segment_count
        ), previous AS MATERIALIZED (
            -- The existing packages of the items, before the update: on Citus, what follows it sees its result.
            SELECT existing.*
              FROM validated_item
             CROSS JOIN LATERAL (SELECT * FROM packages WHERE tenant_id = $1 AND id = target_id OFFSET 0) AS existing
             WHERE error IS NULL
        ), updated AS (
            -- The changed packages. An update that changes nothing does not touch updated_at.
            UPDATE packages
               SET slug = coalesce(item.slug, packages.slug),
                   name = coalesce(item.name, packages.name),
                   description = coalesce(item.description, packages.description),
                   base_price = coalesce(item.base_price, packages.base_price),
                   booking_type = coalesce(item.booking_type, packages.booking_type),
                   active = coalesce(item.active, packages.active),
                   grouping_order = coalesce(item.grouping_order, packages.grouping_order),
                   segment_id = coalesce(item.segment_id, packages.segment_id),
                   external_id = coalesce(packages.external_id, item.external_id),
                   updated_at = $19
              FROM validated_item AS item
             WHERE error IS NULL AND packages.tenant_id = $1 AND packages.id = item.target_id
               AND (coalesce(item.slug, packages.slug), coalesce(item.name, packages.name),
                    coalesce(item.description, packages.description),
                    coalesce(item.base_price, packages.base_price),
                    coalesce(item.booking_type, packages.booking_type),
                    coalesce(item.active, packages.active),
                    coalesce(item.grouping_order, packages.grouping_order),
                    coalesce(item.segment_id, packages.segment_id),
                    coalesce(packages.external_id, item.external_id))
                   IS DISTINCT FROM
                   (packages.slug, packages.name, packages.description, packages.base_price,
                    packages.booking_type, packages.active, packages.grouping_order, packages.segment_id,
                    packages.external_id)
            RETURNING packages.*
        ), segment_change AS (
            -- By how many packages each segment changes. The planner expects few rows of this condition, and therefore
            -- finds the segments by their ids.
            SELECT segment_id, sum(change) AS change
              FROM (SELECT segment_id, 1 FROM inserted
                     UNION ALL
                    SELECT unnest(ARRAY[updated.segment_id, previous.segment_id]), unnest(ARRAY[1, -1])
                      FROM updated
                      JOIN previous ON previous.id = updated.id
                   ) AS package (segment_id, change)
             GROUP BY segment_id
            HAVING abs(sum(change)) > 0
        ), counted_segment AS (
            -- Not a new General segment, whose packages are counted. Only on Citus is it in the table here.
            UPDATE segments SET package_count = package_count + change::int4
              FROM segment_change
             WHERE tenant_id = $1 AND id = segment_id AND id NOT IN (SELECT id FROM new_general)
        ), new_event AS (
            -- One for each item that changes something, in their order.
            INSERT INTO events (type, time, tenant_id, caller, trace_id, data)
            SELECT type, $19, $1, $25, $26, data
              FROM (SELECT 0, 'segment.created', jsonb_build_object('segment_id', id, 'slug', $14::text)
                      FROM new_general
                     UNION ALL
                    SELECT number, 'package.created',
                           jsonb_build_object('package_id', inserted.id, 'segment_id', inserted.segment_id,
                                              'slug', inserted.slug, 'name', inserted.name,
                                              'base_price', inserted.base_price)
                      FROM inserted
                      JOIN item ON new_id = inserted.id
                     UNION ALL
                    SELECT number, 'package.updated',
                           jsonb_build_object('package_id', updated.id)
                           || changed_columns(to_jsonb(previous), to_jsonb(updated))
                      FROM updated
                      JOIN validated_item ON target_id = updated.id
                      JOIN previous ON previous.id = updated.id
                   ) AS event (number, type, data)
             ORDER BY number
        ), package AS (
            -- The package of every item as it is now; and that of an only item as it was.
            SELECT false AS is_previous, * FROM inserted
             UNION ALL
            SELECT false, * FROM updated
             UNION ALL
            SELECT false, * FROM previous WHERE NOT EXISTS (SELECT 1 FROM updated WHERE updated.id = previous.id)
             UNION ALL
            SELECT true, * FROM previous WHERE $22
        )
        SELECT package.id AS "id?", package.segment_id AS "segment_id?", package.slug AS "slug?",
               package.name AS "name?", package.description AS "description?", package.base_price AS "base_price?",
               package.booking_type::text, package.grouping_order AS "grouping_order?",
               package.active AS "active?", package.created_at AS "created_at?", package.updated_at AS "updated_at?",
               package.external_id, package.revision,
               validated_item.error AS "error?"
          FROM validated_item
          LEFT JOIN package ON package.id = coalesce(target_id, new_id)
         ORDER BY number, is_previous
        "#,
        tenant_id.as_uuid(),
        &column(&new_ids.packages, |id| id.as_uuid()),
        &column(items, |item| item.target.id().map(PackageId::as_uuid)) as _,
        &column(items, |item| item.target.slug()) as _,
        &column(generated_slugs, |slug| slug.as_ref().map(Slug::as_str)) as _,
        &column(items, |item| item.name.as_ref().map(DisplayName::as_str)) as _,
        &column(items, |item| item.description.as_ref().map(Description::as_str)) as _,
        &column(items, |item| item.base_price.map(Price::minor_units)) as _,
        &column(items, |item| item.booking_type.map(BookingType::as_str)) as _,
        &column(items, |item| item.active) as _,
        &column(items, |item| item.grouping_order) as _,
        &column(items, |item| item.segment_id.map(SegmentId::as_uuid)) as _,
        new_ids.general_segment.as_uuid(),
        general.slug,
        general.name,
        general.hero_title,
        general.description,
        general.sort_order,
        now,
        defaults::BOOKING_TYPE.as_str(),
        i64::from(max_packages.get()),
        items.len() == 1,
        &column(items, |item| item.etag.map(|etag| etag.revision)) as _,
        &column(items, |item| item.external_id.as_ref().map(ExternalId::as_str)) as _,
        &*actor.event_caller(),
        actor.trace_id(),
    )
    .fetch_all(connection)
    .await
}

fn outcome(rows: Vec<PackageRow>, tenant_id: TenantId, new_ids: &NewPackageIds) -> Result<PackageUpsertOutcome> {
    if rows.is_empty() {
        return Err(Error::not_found(Resource::Tenant));
    }
    let (mut results, mut errors) = (Vec::with_capacity(rows.len()), Vec::new());
    let mut rows = rows.into_iter();
    // `zip` asks the ids first, so that it leaves the row after the last item.
    for (index, (&new_id, row)) in new_ids.packages.iter().zip(&mut rows).enumerate() {
        if let Some(error) = &row.error {
            errors.push((index, error.parse().map_err(Error::internal)?));
        } else {
            let missing = || Error::internal("the upsert of a valid item returned no package");
            let item = row.into_package(tenant_id).ok_or_else(missing)?;
            results.push(UpsertResult { created: item.id == new_id, item, previous: None });
        }
    }
    if !errors.is_empty() {
        return Ok(Err(PackageUpsertFailure::Items(errors)));
    }
    if let [only] = results.as_mut_slice() {
        only.previous = rows.next().and_then(|row| row.into_package(tenant_id));
    }
    let response_bytes = packages_response_bytes(results.iter().map(|result| &result.item));
    Ok(if response_bytes <= MAX_RESPONSE_BYTES { Ok(results) } else { Err(PackageUpsertFailure::ResponseTooLarge) })
}
