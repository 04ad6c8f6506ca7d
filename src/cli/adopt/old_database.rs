//! Reads the platform's old database in one read-only snapshot, a bounded part of it at a time.

use futures_util::{Stream, TryStreamExt as _};
use sqlx::{
    FromRow, PgConnection,
    types::time::{OffsetDateTime, PrimitiveDateTime},
};

use crate::{
    cli::Error,
    domain::adoption::{OldPackage, OldSegment, OldTenant},
    store::DatabaseHosts,
};

/// Tenants per chunk.
const CHUNK_TENANTS: i64 = 200;
/// Segments and packages per chunk, unless its only tenant has more.
const CHUNK_PARTS: i64 = 5_000;

/// A connection to the old database whose transaction sees one state of it.
pub struct OldDatabase(PgConnection);

/// The columns that must be unique among all tenants, as they are.
#[derive(FromRow)]
pub struct UniqueColumns {
    pub slug: String,
    pub email: Option<String>,
    pub api_key_public: String,
    pub api_key_secret: String,
}

#[derive(FromRow)]
struct TenantRow {
    id: String,
    slug: String,
    name: String,
    email: Option<String>,
    password_hash: Option<String>,
    api_key_public: String,
    api_key_secret: String,
    commission_percent: String,
    branding: Option<String>,
    email_verified: bool,
    is_active: bool,
    is_test_tenant: bool,
    created_at: Option<PrimitiveDateTime>,
    updated_at: Option<PrimitiveDateTime>,
}

#[derive(FromRow)]
struct SegmentRow {
    tenant_id: String,
    id: String,
    slug: String,
    name: String,
    hero_title: String,
    description: Option<String>,
    sort_order: i32,
    active: bool,
    created_at: Option<PrimitiveDateTime>,
    updated_at: Option<PrimitiveDateTime>,
}

#[derive(FromRow)]
struct PackageRow {
    tenant_id: String,
    id: String,
    segment_id: Option<String>,
    slug: String,
    name: String,
    description: Option<String>,
    base_price: i32,
    booking_type: String,
    grouping_order: Option<i32>,
    active: bool,
    created_at: Option<PrimitiveDateTime>,
    updated_at: Option<PrimitiveDateTime>,
}

impl OldDatabase {
    /// Connects, and begins the transaction.
    pub async fn open(hosts: DatabaseHosts) -> Result<Self, Error> {
        let hosts = hosts.map(|host| host.application_name("turnkey adopt"));
        let mut connection = hosts.connect().await.map_err(|error| in_old_database(&error))?;
        // The snapshot is open for as long as the adoption takes, and idle while tenants are written.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                     SET LOCAL statement_timeout = 0;
                     SET LOCAL idle_in_transaction_session_timeout = 0";
        sqlx::raw_sql(begin).execute(&mut connection).await.map_err(|error| in_old_database(&error))?;
        Ok(Self(connection))
    }

    pub async fn count_tenants(&mut self) -> Result<usize, Error> {
        let count: i64 = sqlx::query_scalar(r#"SELECT count(*) FROM "Tenant""#)
            .fetch_one(&mut self.0)
            .await
            .map_err(|error| in_old_database(&error))?;
        Ok(count.try_into()?)
    }

    /// Returns the unique columns of all tenants, in any order.
    pub fn unique_columns(&mut self) -> impl Stream<Item = Result<UniqueColumns, Error>> {
        let sql = r#"
            SELECT left(slug, 1000) AS slug, left(email, 1000) AS email, left("apiKeyPublic", 1000) AS api_key_public,
                   left("apiKeySecret", 1000) AS api_key_secret
              FROM "Tenant"
        "#;
        sqlx::query_as(sql).fetch(&mut self.0).map_err(|error| in_old_database(&error))
    }

    /// Returns the next tenants in the order of their ids, after this one. Empty at the end.
    pub async fn next_chunk(&mut self, after: &str) -> Result<Vec<OldTenant>, Error> {
        let tenants = self.next_tenants(after).await?;
        let ids: Vec<&str> = tenants.iter().map(|tenant| tenant.id.as_str()).collect();
        let mut segments = self.segments_of(&ids).await?.into_iter().peekable();
        let mut packages = self.packages_of(&ids).await?.into_iter().peekable();
        // The rows of both are in the order of the tenants.
        let tenants = tenants.into_iter().map(|row| {
            let mut old = OldTenant::from(row);
            while let Some(segment) = segments.next_if(|segment| segment.tenant_id == old.id) {
                old.segments.push(segment.into());
            }
            while let Some(package) = packages.next_if(|package| package.tenant_id == old.id) {
                old.packages.push(package.into());
            }
            old
        });
        Ok(tenants.collect())
    }

    /// The texts are cut where they exceed every limit, so that a row takes a bounded amount of memory.
    async fn next_tenants(&mut self, after: &str) -> Result<Vec<TenantRow>, Error> {
        let sql = r#"
            WITH next AS MATERIALIZED (
                SELECT "Tenant".*, (SELECT count(*) FROM "Segment" WHERE "tenantId" = "Tenant".id)
                                   + (SELECT count(*) FROM "Package" WHERE "tenantId" = "Tenant".id) AS parts
                  FROM "Tenant"
                 WHERE id > $1
                 ORDER BY id
                 LIMIT $2
            )
            SELECT id, left(slug, 1000) AS slug, left(name, 1000) AS name, left(email, 1000) AS email,
                   left("passwordHash", 1000) AS password_hash, left("apiKeyPublic", 1000) AS api_key_public,
                   left("apiKeySecret", 1000) AS api_key_secret, "commissionPercent"::text AS commission_percent,
                   CASE WHEN octet_length(branding::text) <= 131072 THEN branding::text END AS branding,
                   "emailVerified" AS email_verified, "isActive" AS is_active, is_test_tenant,
                   CASE WHEN "createdAt" BETWEEN '0001-01-01' AND '9999-12-31' THEN "createdAt" END AS created_at,
                   CASE WHEN "updatedAt" BETWEEN '0001-01-01' AND '9999-12-31' THEN "updatedAt" END AS updated_at
              FROM (SELECT *, sum(parts) OVER (ORDER BY id) - parts AS parts_before,
                           row_number() OVER (ORDER BY id) AS number
                      FROM next) AS counted
             WHERE number = 1 OR parts_before + parts <= $3
             ORDER BY id
        "#;
        let rows = sqlx::query_as(sql).bind(after).bind(CHUNK_TENANTS).bind(CHUNK_PARTS);
        rows.fetch_all(&mut self.0).await.map_err(|error| in_old_database(&error))
    }

    async fn segments_of(&mut self, tenant_ids: &[&str]) -> Result<Vec<SegmentRow>, Error> {
        let sql = r#"
            SELECT "tenantId" AS tenant_id, id, left(slug, 1000) AS slug, left(name, 1000) AS name,
                   left("heroTitle", 1000) AS hero_title, left(description, 5000) AS description,
                   "sortOrder" AS sort_order, active,
                   CASE WHEN "createdAt" BETWEEN '0001-01-01' AND '9999-12-31' THEN "createdAt" END AS created_at,
                   CASE WHEN "updatedAt" BETWEEN '0001-01-01' AND '9999-12-31' THEN "updatedAt" END AS updated_at
              FROM "Segment"
             WHERE "tenantId" = ANY ($1)
             ORDER BY "tenantId", "Segment"."createdAt", id
        "#;
        sqlx::query_as(sql).bind(tenant_ids).fetch_all(&mut self.0).await.map_err(|error| in_old_database(&error))
    }

    async fn packages_of(&mut self, tenant_ids: &[&str]) -> Result<Vec<PackageRow>, Error> {
        let sql = r#"
            SELECT "tenantId" AS tenant_id, id, "segmentId" AS segment_id, left(slug, 1000) AS slug,
                   left(name, 1000) AS name, left(description, 5000) AS description, "basePrice" AS base_price,
                   "bookingType"::text AS booking_type, "groupingOrder" AS grouping_order, active,
                   CASE WHEN "createdAt" BETWEEN '0001-01-01' AND '9999-12-31' THEN "createdAt" END AS created_at,
                   CASE WHEN "updatedAt" BETWEEN '0001-01-01' AND '9999-12-31' THEN "updatedAt" END AS updated_at
              FROM "Package"
             WHERE "tenantId" = ANY ($1)
             ORDER BY "tenantId", "Package"."createdAt", id
        "#;
        sqlx::query_as(sql).bind(tenant_ids).fetch_all(&mut self.0).await.map_err(|error| in_old_database(&error))
    }
}

/// The errors of sqlx do not contain the password.
fn in_old_database(error: &sqlx::Error) -> Error {
    format!("the database of --from: {error}").into()
}

/// Times of the old database are in UTC, without a zone.
fn utc(time: Option<PrimitiveDateTime>) -> Option<OffsetDateTime> {
    time.map(PrimitiveDateTime::assume_utc)
}

impl From<TenantRow> for OldTenant {
    fn from(row: TenantRow) -> Self {
        Self {
            id: row.id,
            slug: row.slug,
            name: row.name,
            email: row.email,
            password_hash: row.password_hash,
            api_key_public: row.api_key_public,
            api_key_secret: row.api_key_secret,
            commission_percent: row.commission_percent,
            branding: row.branding,
            email_verified: row.email_verified,
            is_active: row.is_active,
            is_test: row.is_test_tenant,
            created_at: utc(row.created_at),
            updated_at: utc(row.updated_at),
            segments: Vec::new(),
            packages: Vec::new(),
        }
    }
}

impl From<SegmentRow> for OldSegment {
    fn from(row: SegmentRow) -> Self {
        Self {
            id: row.id,
            slug: row.slug,
            name: row.name,
            hero_title: row.hero_title,
            description: row.description,
            sort_order: row.sort_order,
            active: row.active,
            created_at: utc(row.created_at),
            updated_at: utc(row.updated_at),
        }
    }
}

impl From<PackageRow> for OldPackage {
    fn from(row: PackageRow) -> Self {
        Self {
            id: row.id,
            segment_id: row.segment_id,
            slug: row.slug,
            name: row.name,
            description: row.description,
            base_price: row.base_price,
            booking_type: row.booking_type,
            grouping_order: row.grouping_order,
            active: row.active,
            created_at: utc(row.created_at),
            updated_at: utc(row.updated_at),
        }
    }
}
