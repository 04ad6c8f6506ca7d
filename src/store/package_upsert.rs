//! The statement that creates and changes packages, one or many, all or none.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, error::is_constraint_violation, packages::package_from_row, pool::PooledConnection};
use crate::{
    domain::{
        BookingType, Description, DisplayName, Package, PackageId, Price, SegmentId, SlugStem, TenantId,
        catalog::{PackageBatchOutcome, PackageUpsert, Problem, UpsertResult},
        defaults,
    },
    error::{Error, Resource, Result},
};

/// Ids for whatever an upsert may have to make.
#[derive(Debug)]
pub struct NewIds {
    /// One for each item.
    pub packages: Vec<PackageId>,
    /// For the General segment, should it be missing.
    pub general: SegmentId,
}

impl Store {
    /// Creates or changes packages, all or none.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the tenant, [`Error::Conflict`] where hands in psql were faster; those of the database.
    pub async fn upsert_packages(
        &self,
        tenant_id: TenantId,
        items: &[PackageUpsert],
        ids: &NewIds,
        now: OffsetDateTime,
    ) -> Result<PackageBatchOutcome> {
        let mut transaction = self.begin_as_catalog("upsert_packages", tenant_id).await?;
        let rows =
            match UnnestColumns::new(items, ids).upsert(transaction.connection(), tenant_id, ids.general, now).await {
                Err(error) if is_constraint_violation(&error, "packages_slug_key") => return Err(Error::Conflict),
                rows => rows?,
            };
        let outcome = outcome(rows);
        let ended = if matches!(outcome, Ok(PackageBatchOutcome::Done { .. })) {
            transaction.commit().await
        } else {
            transaction.rollback().await
        };
        ended?;
        outcome
    }
}

/// The items as columns, the way `unnest` takes them.
#[derive(Default)]
struct UnnestColumns<'a> {
    new_ids: Vec<Uuid>,
    package_ids: Vec<Option<Uuid>>,
    slugs: Vec<Option<&'a str>>,
    stems: Vec<Option<&'a str>>,
    first_suffixes: Vec<Option<i32>>,
    names: Vec<Option<&'a str>>,
    descriptions: Vec<Option<&'a str>>,
    base_prices: Vec<Option<i64>>,
    booking_types: Vec<Option<&'a str>>,
    actives: Vec<Option<bool>>,
    grouping_orders: Vec<Option<i32>>,
    segment_ids: Vec<Option<Uuid>>,
}

impl<'a> UnnestColumns<'a> {
    fn new(items: &'a [PackageUpsert], ids: &NewIds) -> Self {
        let mut columns = Self { new_ids: ids.packages.iter().map(|id| id.as_uuid()).collect(), ..Self::default() };
        for item in items {
            columns.package_ids.push(item.target.id().map(PackageId::as_uuid));
            columns.slugs.push(item.target.slug());
            columns.stems.push(item.target.stem().map(SlugStem::as_str));
            columns.first_suffixes.push(item.target.stem().map(SlugStem::first_suffix));
            columns.names.push(item.name.as_ref().map(DisplayName::as_str));
            columns.descriptions.push(item.description.as_ref().map(Description::as_str));
            columns.base_prices.push(item.base_price.map(Price::minor_units));
            columns.booking_types.push(item.booking_type.map(BookingType::as_str));
            columns.actives.push(item.active);
            columns.grouping_orders.push(item.grouping_order);
            columns.segment_ids.push(item.segment_id.map(SegmentId::as_uuid));
        }
        columns
    }

    /// One row an item, in order; none where there is no such tenant. Items with a problem are not written, and the
    /// caller rolls the others back.
    ///
    /// It looks and writes in one statement, which the tenant's lock makes safe:
    /// - `target`: which package an item is about, if it is there;
    /// - `judged`: what stands against it;
    /// - `item`: the items, their number hidden from the planner as in `create_fully_provisioned`;
    /// - `chosen`: the slugs made from names, item after item, each the first that neither a package nor an item before
    ///   it has: the stem, then `-2`, `-3` and so on, cut so that they fit;
    /// - `new_general`: the General segment, where a new package needs it and it is gone;
    /// - `inserted`, `updated`: the writing; an update that would change nothing is none.
    #[expect(clippy::too_many_lines, reason = "it is one statement")]
    async fn upsert(
        &self,
        connection: &mut PooledConnection,
        tenant_id: TenantId,
        new_general_id: SegmentId,
        now: OffsetDateTime,
    ) -> sqlx::Result<Vec<UpsertRow>> {
        let general = &defaults::SEGMENT;
        let rows = sqlx::query!(
            r#"
            WITH RECURSIVE item AS (
                SELECT *
                  FROM unnest((SELECT $2::uuid[]), $3::uuid[], $4::text[], $5::text[], $6::int4[], $7::text[], $8::text[],
                              $9::int8[], $10::text[], $11::bool[], $12::int4[], $13::uuid[])
                       WITH ORDINALITY AS item (new_id, package_id, slug, stem, first_suffix, name, description,
                                                base_price, booking_type, active, grouping_order, segment_id, number)
            ), target AS (
                SELECT item.number, coalesce(by_id.id, by_slug.id) AS id,
                       row_number() OVER (PARTITION BY coalesce(by_id.id, by_slug.id) ORDER BY item.number) AS turn
                  FROM item
                  LEFT JOIN packages AS by_id ON by_id.tenant_id = $1 AND by_id.id = item.package_id
                  LEFT JOIN packages AS by_slug
                         ON by_slug.tenant_id = $1 AND by_slug.slug = item.slug AND item.package_id IS NULL
            ), judged AS MATERIALIZED (
                SELECT item.*, target.id AS target_id,
                       CASE
                           WHEN item.package_id IS NOT NULL AND target.id IS NULL THEN 'NOT_FOUND'
                           WHEN target.id IS NULL AND (item.name IS NULL OR item.base_price IS NULL) THEN 'INCOMPLETE'
                           WHEN target.id IS NOT NULL AND target.turn > 1 THEN 'REPEATED'
                           WHEN item.segment_id IS NOT NULL
                                AND NOT EXISTS (SELECT FROM segments
                                                 WHERE segments.tenant_id = $1 AND segments.id = item.segment_id)
                               THEN 'SEGMENT_NOT_FOUND'
                           WHEN EXISTS (SELECT FROM packages AS other
                                         WHERE other.tenant_id = $1 AND other.slug = item.slug
                                           AND other.id <> target.id) THEN 'SLUG_TAKEN'
                       END AS problem
                  FROM item
                  JOIN target ON target.number = item.number
                 WHERE EXISTS (SELECT FROM tenants WHERE id = $1 AND deleted_at IS NULL)
            ), nameless AS (
                SELECT number, stem, first_suffix, row_number() OVER (ORDER BY number) AS turn
                  FROM judged
                 WHERE problem IS NULL AND target_id IS NULL AND slug IS NULL
            ), chosen (turn, number, slug, taken) AS (
                SELECT 0::int8, 0::int8, ''::text, array_remove($4::text[], NULL)
                 UNION ALL
                SELECT nameless.turn, nameless.number, free.slug, chosen.taken || free.slug
                  FROM chosen
                  JOIN nameless ON nameless.turn = chosen.turn + 1
                 CROSS JOIN LATERAL (
                        SELECT candidate.slug
                          FROM generate_series(nameless.first_suffix,
                                               nameless.first_suffix + cardinality(chosen.taken)
                                               + (SELECT count(*) FROM packages WHERE tenant_id = $1)::int4) AS suffix
                         CROSS JOIN LATERAL (
                                SELECT CASE suffix
                                           WHEN 1 THEN nameless.stem
                                           ELSE rtrim(left(nameless.stem, 62 - length(suffix::text)), '-') || '-' || suffix
                                       END) AS candidate (slug)
                         WHERE candidate.slug <> ALL (chosen.taken)
                           AND NOT EXISTS (SELECT FROM packages
                                            WHERE packages.tenant_id = $1 AND packages.slug = candidate.slug)
                         ORDER BY suffix
                         LIMIT 1) AS free
            ), new_general AS (
                INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active,
                                      created_at, updated_at)
                SELECT $1, $15, $16, $17, $18, $19, $20, true, $14, $14
                 WHERE EXISTS (SELECT FROM judged
                                WHERE problem IS NULL AND target_id IS NULL AND segment_id IS NULL)
                   AND NOT EXISTS (SELECT FROM segments WHERE tenant_id = $1 AND slug = $16)
                RETURNING id
            ), inserted AS (
                INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                      grouping_order, active, created_at, updated_at)
                SELECT $1, judged.new_id,
                       coalesce(judged.segment_id,
                                (SELECT id FROM segments WHERE tenant_id = $1 AND slug = $16),
                                (SELECT id FROM new_general)),
                       coalesce(judged.slug, chosen.slug), judged.name, coalesce(judged.description, ''),
                       judged.base_price, coalesce(judged.booking_type, $21),
                       coalesce(judged.grouping_order,
                                least(2147483647,
                                      coalesce(greatest((SELECT max(grouping_order) FROM packages WHERE tenant_id = $1),
                                                        (SELECT max(grouping_order) FROM item)), 0)::int8
                                      + row_number() OVER (PARTITION BY judged.grouping_order IS NULL
                                                           ORDER BY judged.number)))::int4,
                       coalesce(judged.active, true), $14, $14
                  FROM judged
                  LEFT JOIN chosen ON chosen.number = judged.number
                 WHERE problem IS NULL AND target_id IS NULL
                RETURNING *
            ), updated AS (
                UPDATE packages
                   SET slug = coalesce(judged.slug, packages.slug),
                       name = coalesce(judged.name, packages.name),
                       description = coalesce(judged.description, packages.description),
                       base_price = coalesce(judged.base_price, packages.base_price),
                       booking_type = coalesce(judged.booking_type, packages.booking_type),
                       active = coalesce(judged.active, packages.active),
                       grouping_order = coalesce(judged.grouping_order, packages.grouping_order),
                       segment_id = coalesce(judged.segment_id, packages.segment_id),
                       updated_at = $14
                  FROM judged
                 WHERE problem IS NULL AND packages.tenant_id = $1 AND packages.id = judged.target_id
                   AND (coalesce(judged.slug, packages.slug), coalesce(judged.name, packages.name),
                        coalesce(judged.description, packages.description),
                        coalesce(judged.base_price, packages.base_price),
                        coalesce(judged.booking_type, packages.booking_type),
                        coalesce(judged.active, packages.active),
                        coalesce(judged.grouping_order, packages.grouping_order),
                        coalesce(judged.segment_id, packages.segment_id))
                       IS DISTINCT FROM
                       (packages.slug, packages.name, packages.description, packages.base_price,
                        packages.booking_type, packages.active, packages.grouping_order, packages.segment_id)
                RETURNING packages.*
            ), package AS (
                SELECT * FROM inserted
                 UNION ALL
                SELECT * FROM updated
                 UNION ALL
                SELECT packages.*
                  FROM judged
                  JOIN packages ON packages.tenant_id = $1 AND packages.id = judged.target_id
                 WHERE NOT EXISTS (SELECT FROM updated WHERE updated.id = judged.target_id) AND judged.problem IS NULL
            )
            SELECT judged.problem AS "problem?", judged.target_id IS NULL AS "created!",
                   (SELECT id FROM new_general) AS "recreated_general?",
                   package.id AS "id?", package.segment_id AS "segment_id?", package.slug AS "slug?",
                   package.name AS "name?", package.description AS "description?", package.base_price AS "base_price?",
                   package.booking_type AS "booking_type?", package.grouping_order AS "grouping_order?",
                   package.active AS "active?", package.created_at AS "created_at?", package.updated_at AS "updated_at?"
              FROM judged
              LEFT JOIN package ON package.id = coalesce(judged.target_id, judged.new_id)
             ORDER BY judged.number
            "#,
            tenant_id.as_uuid(),
            &self.new_ids,
            &self.package_ids as _,
            &self.slugs as _,
            &self.stems as _,
            &self.first_suffixes as _,
            &self.names as _,
            &self.descriptions as _,
            &self.base_prices as _,
            &self.booking_types as _,
            &self.actives as _,
            &self.grouping_orders as _,
            &self.segment_ids as _,
            now,
            new_general_id.as_uuid(),
            general.slug,
            general.name,
            general.hero_title,
            general.description,
            general.sort_order,
            defaults::BOOKING_TYPE.as_str(),
        )
        .fetch_all(connection)
        .await?;
        let judged = rows.into_iter().map(|row| UpsertRow {
            problem: row.problem.clone(),
            created: row.created,
            recreated_general: row.recreated_general.map(SegmentId::from_uuid),
            package: package_from_row!(row, tenant_id),
        });
        Ok(judged.collect())
    }
}

/// What the statement says of one item.
struct UpsertRow {
    problem: Option<String>,
    created: bool,
    recreated_general: Option<SegmentId>,
    package: Option<Package>,
}

fn outcome(rows: Vec<UpsertRow>) -> Result<PackageBatchOutcome> {
    let Some(first) = rows.first() else {
        return Err(Error::not_found(Resource::Tenant));
    };
    let recreated_general = first.recreated_general;
    let mut refused = Vec::new();
    let mut packages = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        match (row.problem, row.package) {
            (Some(problem), _) => refused.push((index, parse_upsert_error(&problem)?)),
            (None, Some(item)) => packages.push(UpsertResult { created: row.created, item }),
            (None, None) => return Err(Error::internal("an upsert without a problem left no package")),
        }
    }
    if refused.is_empty() {
        Ok(PackageBatchOutcome::Done { packages, recreated_general })
    } else {
        Ok(PackageBatchOutcome::Refused(refused))
    }
}

/// Problems as the statements spell them.
pub(super) fn parse_upsert_error(name: &str) -> Result<Problem> {
    match name {
        "NOT_FOUND" => Ok(Problem::NotFound),
        "SEGMENT_NOT_FOUND" => Ok(Problem::SegmentNotFound),
        "INCOMPLETE" => Ok(Problem::Incomplete),
        "SLUG_TAKEN" => Ok(Problem::SlugTaken),
        "REPEATED" => Ok(Problem::Duplicate),
        "DEFAULT_SEGMENT" => Ok(Problem::DefaultSegment),
        unknown => Err(Error::internal(format!("unknown problem {unknown}"))),
    }
}
