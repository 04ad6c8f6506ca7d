//! What calls read does not grow with the data: not with the number of tenants, and not with the packages of a tenant.
//!
//! The measure is pages that Postgres accessed, by its own counters. A session adds to these counters at its end at the
//! latest, so a measurement ends with the server. Time is measured by `benches/bench`.

use std::collections::BTreeMap;

use sqlx::{ConnectOptions as _, postgres::PgConnection};
use turnkey::{
    config::ServerSettings,
    domain::{Argon2Params, Quotas},
    grpc::pb::{
        BatchUpsertPackagesRequest, CreateFullyProvisionedRequest, CreateFullyProvisionedResponse,
        DeleteSegmentRequest, GetPackageRequest, GetSegmentRequest, ListPackagesRequest, ListSegmentsRequest,
        ListTenantsRequest, PackageUpsert, UpsertPackageRequest, UpsertSegmentRequest, get_tenant_request::Identifier,
    },
};
use uuid::Uuid;

use crate::support::{
    database::{Cluster, TestDatabase, start_own_postgres},
    fixture::{Fixture, NewTenant, one_connection},
    owners::BELLA,
    process::temp_folder,
    requests::{PASSWORD, bella_with_request_id, gold, named, rotation, with_bearer},
    tokens::Tokens,
};

/// More than the executions after which Postgres may keep a plan.
const CALLS: i64 = 10;

fn settings() -> ServerSettings {
    let many = 100_000.try_into().unwrap();
    let quotas = Quotas { packages: many, segments: many, ..Quotas::DEFAULT };
    ServerSettings { quotas, password_argon2: Argon2Params::KEY, ..one_connection() }
}

/// Runs `work` on a Postgres of its own, where nothing but the test changes statistics, and therefore plans. On a
/// shared one, a transaction that writes in another database keeps dead rows here, and calls would read them too.
async fn with_own_postgres<T>(work: impl AsyncFnOnce(TestDatabase) -> T) -> T {
    let root = temp_folder();
    let postgres = start_own_postgres(root.path()).await;
    let database = TestDatabase::migrated_on(&postgres).await;
    database.execute("ALTER SYSTEM SET autovacuum = off").await;
    database.execute("SELECT pg_reload_conf()").await;
    let result = work(database).await;
    postgres.stop().await.unwrap();
    result
}

async fn start_on(database: &TestDatabase) -> Fixture {
    Fixture::start_with(database.clone(), settings()).await
}

/// Pages of tables and indexes that sessions have accessed.
const PAGES: &str = "SELECT sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0))::int8
                       FROM pg_statio_user_tables";
/// Rows and index entries that sessions have read.
const ROWS: &str = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int8
                           + (SELECT sum(idx_tup_read)::int8 FROM pg_stat_user_indexes)
                      FROM pg_stat_user_tables";

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

/// Returns how much a counter grows while a server works, from its start to its end.
async fn measure(database: &TestDatabase, counter: &'static str, work: impl AsyncFnOnce(&Fixture)) -> i64 {
    measure_with(database, settings(), counter, work).await
}

async fn measure_with(
    database: &TestDatabase,
    settings: ServerSettings,
    counter: &'static str,
    work: impl AsyncFnOnce(&Fixture),
) -> i64 {
    let mut connection = database.superuser.connect().await.unwrap();
    let other_sessions = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND pid <> pg_backend_pid()";
    while number(&mut connection, other_sessions).await > 0 {}
    let before = number(&mut connection, counter).await;
    let fixture = Fixture::start_with(database.clone(), settings).await;
    work(&fixture).await;
    fixture.server.stop().await;
    while number(&mut connection, other_sessions).await > 0 {}
    number(&mut connection, counter).await - before
}

/// Creates a database with this many tenants. The oldest 98 % are deleted. Of the others, one is suspended, and the
/// slug of another one begins with `rare`. The ids have the order of their creation, as those of the service.
async fn database_with_tenants(tenants: u32) -> TestDatabase {
    let database = Cluster::get().migrated().await;
    let insert = format!(
        "INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at, deleted_at,
                              labels)
         SELECT lpad(to_hex(n), 32, '0')::uuid,
                CASE n WHEN {tenants} THEN 'rare-one' ELSE 't' || substr(md5(n::text), 1, 12) END, 'Bella', 10, '{{}}',
                n <> {tenants} - 1, now() + n * interval '1 second', now(),
                CASE WHEN n <= {tenants} / 100 * 98 THEN now() END,
                jsonb_build_object('all', '', 'parity', (n % 2)::text, CASE n % 2 WHEN 0 THEN 'even' ELSE 'odd' END, '',
                                   CASE n WHEN {tenants} - 5 THEN 'rare' ELSE 'common' END, '')
           FROM generate_series(1, {tenants}) AS n;
         INSERT INTO tenant_labels (tenant_id, key, value, is_active, is_deleted, created_at)
         SELECT id, key, value, is_active, deleted_at IS NOT NULL, created_at
           FROM tenants, jsonb_each_text(labels) AS label (key, value)"
    );
    database.execute_without_triggers(&insert).await;
    database.execute("VACUUM ANALYZE").await;
    database
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn with_labels(selected: &[(&str, &str)]) -> ListTenantsRequest {
    ListTenantsRequest { labels: labels(selected), ..ListTenantsRequest::default() }
}

fn tenant_lists() -> Vec<ListTenantsRequest> {
    let all = ListTenantsRequest::default;
    let prefix = |prefix: &str| ListTenantsRequest { slug_prefix: prefix.to_owned(), ..all() };
    let single_filters = [
        all(),
        ListTenantsRequest { newest_first: true, ..all() },
        ListTenantsRequest { show_deleted: true, ..all() },
        ListTenantsRequest { is_active: Some(true), ..all() },
        ListTenantsRequest { is_active: Some(false), ..all() },
        prefix("t"),
        prefix("rare"),
        prefix("none"),
        with_labels(&[("all", "")]),
        with_labels(&[("parity", "1")]),
        with_labels(&[("rare", "")]),
        with_labels(&[("none", "")]),
    ];
    let combinations = [
        ListTenantsRequest { is_active: Some(false), newest_first: true, ..all() },
        ListTenantsRequest { is_active: Some(false), show_deleted: true, ..all() },
        ListTenantsRequest { is_active: Some(false), ..prefix("t") },
        ListTenantsRequest { show_deleted: true, newest_first: true, ..all() },
        ListTenantsRequest { show_deleted: true, ..prefix("t") },
        ListTenantsRequest { is_active: Some(false), ..with_labels(&[("all", "")]) },
        ListTenantsRequest { show_deleted: true, newest_first: true, ..with_labels(&[("all", "")]) },
        with_labels(&[("all", ""), ("parity", "0")]),
        with_labels(&[("all", ""), ("common", ""), ("rare", "")]),
        ListTenantsRequest { newest_first: true, ..with_labels(&[("all", ""), ("rare", "")]) },
    ];
    single_filters.into_iter().chain(combinations).collect()
}

/// Reads the first two pages several times.
async fn list_two_pages(fixture: &Fixture, request: &ListTenantsRequest, token: Option<&str>) {
    let mut client = fixture.provisioning.clone();
    for _ in 0..CALLS {
        let first = client.list_tenants(with_bearer(request.clone(), token)).await.unwrap().into_inner();
        let second = ListTenantsRequest { page_token: first.next_page_token, ..request.clone() };
        client.list_tenants(with_bearer(second, token)).await.unwrap();
    }
}

#[tokio::test]
async fn every_list_of_tenants_reads_as_much_among_50_000_tenants_as_among_10_000_also_if_most_are_deleted() {
    let (few, many) = (database_with_tenants(10_000).await, database_with_tenants(50_000).await);
    for request in tenant_lists() {
        let mut pages = [0, 0];
        for (pages, database) in pages.iter_mut().zip([&few, &many]) {
            *pages = measure(database, PAGES, async |fixture| list_two_pages(fixture, &request, None).await).await;
        }
        // An index can be one level deeper: one page more for each of four ranges.
        let deeper = 4 * 2 * CALLS;
        assert!(pages[1] * 2 <= pages[0] * 3 + deeper * 2, "{pages:?} pages: {request:?}");
    }
}

#[tokio::test]
async fn a_page_of_combined_filters_reads_at_most_1_000_tenants_for_each_state() {
    let database = database_with_tenants(50_000).await;
    let of_all = |labels| ListTenantsRequest { show_deleted: true, labels, ..ListTenantsRequest::default() };
    let by_slug = |labels| ListTenantsRequest { slug_prefix: "t".to_owned(), ..of_all(labels) };
    for request in [
        // No tenant has both.
        of_all(labels(&[("even", ""), ("parity", "1")])),
        ListTenantsRequest { newest_first: true, ..of_all(labels(&[("even", ""), ("parity", "1")])) },
        ListTenantsRequest { is_active: Some(true), ..of_all(labels(&[("all", ""), ("odd", ""), ("parity", "0")])) },
        by_slug(labels(&[("none", "")])),
        by_slug(labels(&[("rare", "")])),
        by_slug(labels(&[("parity", "1")])),
    ] {
        let rows = measure(&database, ROWS, async |fixture| list_two_pages(fixture, &request, None).await).await;
        assert!(rows <= 2 * CALLS * 20_000, "{rows} rows: {request:?}");
    }
}

#[tokio::test]
async fn a_caller_limited_to_100_tenants_makes_every_list_read_these_alone() {
    let database = database_with_tenants(50_000).await;
    let mut connection = database.superuser.connect().await.unwrap();
    // In the order of creation, most tenants are before or after these.
    let ids = "SELECT id::text FROM tenants ORDER BY created_at OFFSET 25000 LIMIT 100";
    let ids: Vec<String> = sqlx::query_scalar(ids).fetch_all(&mut connection).await.unwrap();
    drop(connection);
    let tokens = Tokens::new();
    let limits: Vec<&str> = ids.iter().flat_map(|id| ["--tenant", id]).collect();
    let token = tokens.create_with("booking", &["reader"], &limits);
    for request in tenant_lists() {
        let settings = ServerSettings { tokens_file: Some(tokens.file()), ..settings() };
        let rows = measure_with(&database, settings, ROWS, async |fixture| {
            list_two_pages(fixture, &request, Some(&token)).await;
        });
        // Each page reads 100 tenants by their ids, and the keys and the owner of those that it shows.
        let (rows, pages) = (rows.await, 2 * CALLS);
        assert!(rows <= pages * 600, "{rows} rows: {request:?}");
    }
}

/// Creates a database with this many tenants that have a segment and three packages each.
async fn database_with_catalogs(tenants: u32) -> TestDatabase {
    let database = database_with_tenants(tenants).await;
    database
        .execute_without_triggers(
            "INSERT INTO segments (tenant_id, id, slug, name, hero_title, description, sort_order, active, created_at,
                                   updated_at, package_count)
             SELECT id, gen_random_uuid(), 'general', 'General', 'Hi', '', 0, true, created_at, created_at, 3 FROM tenants;
             INSERT INTO packages (tenant_id, id, segment_id, slug, name, description, base_price, booking_type,
                                   grouping_order, active, created_at, updated_at)
             SELECT tenant_id, gen_random_uuid(), id, 'package-' || n, 'Package', '', 0, 'DATE', n, true, created_at,
                    created_at
               FROM segments, generate_series(1, 3) AS n",
        )
        .await;
    database.execute("VACUUM ANALYZE").await;
    database
}

#[tokio::test]
async fn a_check_reads_at_most_20_rows_and_index_entries_for_each_tenant_however_many_there_are() {
    for tenants in [2_000, 20_000] {
        let database = database_with_catalogs(tenants).await;
        let rows = measure(&database, ROWS, async |fixture| {
            let findings = fixture.check_integrity(None).await.unwrap();
            assert_eq!(findings.len(), usize::try_from(tenants).unwrap(), "none has a key");
        })
        .await;
        assert!(rows <= 20 * i64::from(tenants), "{rows} rows of {tenants} tenants");
    }
}

/// Every kind of call to a catalog.
#[derive(Debug, Clone, Copy)]
enum CatalogCall {
    Get,
    List,
    ListNext,
    ListSegment,
    ListInactive,
    UpdateById,
    UpdateBySlug,
    Create,
    CreateAndDelete,
    CreateWithGeneratedSlug,
    BatchUpsert,
    UpsertSegment,
    ListSegments,
    CreateAndDeleteSegment,
}

const CATALOG_CALLS: [CatalogCall; 14] = [
    CatalogCall::Get,
    CatalogCall::List,
    CatalogCall::ListNext,
    CatalogCall::ListSegment,
    CatalogCall::ListInactive,
    CatalogCall::UpdateById,
    CatalogCall::UpdateBySlug,
    CatalogCall::Create,
    CatalogCall::CreateAndDelete,
    CatalogCall::CreateWithGeneratedSlug,
    CatalogCall::BatchUpsert,
    CatalogCall::UpsertSegment,
    CatalogCall::ListSegments,
    CatalogCall::CreateAndDeleteSegment,
];

fn new_slug() -> String {
    format!("p{}", Uuid::new_v4().simple())
}

async fn make(call: CatalogCall, fixture: &Fixture, tenant: &NewTenant) {
    let list = ListPackagesRequest { tenant_id: tenant.id.clone(), page_size: 3, ..Default::default() };
    let upsert = UpsertPackageRequest { base_price: Some(Uuid::new_v4().as_fields().0.into()), ..gold(tenant) };
    match call {
        CatalogCall::Get => drop(fixture.package(tenant, &tenant.package_ids[1]).await.unwrap()),
        CatalogCall::List => drop(list_packages(fixture, list).await),
        CatalogCall::ListNext => {
            let page_token = list_packages(fixture, ListPackagesRequest { page_size: 2, ..list.clone() }).await;
            list_packages(fixture, ListPackagesRequest { page_token, ..list }).await;
        }
        CatalogCall::ListSegment => {
            let segment_id = Some(tenant.general_id.clone());
            list_packages(fixture, ListPackagesRequest { segment_id, active: Some(true), ..list }).await;
        }
        CatalogCall::ListInactive => {
            list_packages(fixture, ListPackagesRequest { active: Some(false), ..list }).await;
        }
        CatalogCall::UpdateById => {
            let package_id = Some(tenant.package_ids[0].clone());
            fixture.upsert_package(UpsertPackageRequest { package_id, ..upsert }).await.unwrap();
        }
        CatalogCall::UpdateBySlug => {
            let slug = Some("basic-package".to_owned());
            fixture.upsert_package(UpsertPackageRequest { slug, ..upsert }).await.unwrap();
        }
        CatalogCall::Create => {
            fixture.upsert_package(UpsertPackageRequest { slug: Some(new_slug()), ..upsert }).await.unwrap();
        }
        CatalogCall::CreateAndDelete => {
            let created =
                fixture.upsert_package(UpsertPackageRequest { slug: Some(new_slug()), ..upsert }).await.unwrap();
            fixture.delete_package(&tenant.id, &created.package.unwrap().id).await.unwrap();
        }
        CatalogCall::CreateWithGeneratedSlug => drop(fixture.upsert_package(upsert).await.unwrap()),
        CatalogCall::BatchUpsert => {
            let update = |id: &String| PackageUpsert { package_id: Some(id.clone()), ..Default::default() };
            let packages = tenant.package_ids.iter().map(update).collect();
            let request = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages };
            fixture.catalog.clone().batch_upsert_packages(request).await.unwrap();
        }
        CatalogCall::UpsertSegment | CatalogCall::ListSegments | CatalogCall::CreateAndDeleteSegment => {
            make_segment_call(call, fixture, tenant).await;
        }
    }
}

async fn make_segment_call(call: CatalogCall, fixture: &Fixture, tenant: &NewTenant) {
    let tenant_id = tenant.id.clone();
    let upsert = UpsertSegmentRequest { tenant_id: tenant_id.clone(), name: Some(new_slug()), ..Default::default() };
    let mut catalog = fixture.catalog.clone();
    match call {
        CatalogCall::UpsertSegment => {
            let segment_id = Some(tenant.general_id.clone());
            let external_id = Some("flat".to_owned());
            let upsert = UpsertSegmentRequest { segment_id, external_id: external_id.clone(), ..upsert };
            fixture.upsert_segment(upsert).await.unwrap();
            let slug = Some("general".to_owned());
            for get in [
                GetSegmentRequest { segment_id: tenant.general_id.clone(), ..Default::default() },
                GetSegmentRequest { slug, ..Default::default() },
                GetSegmentRequest { external_id, ..Default::default() },
            ] {
                let tenant_id = tenant_id.clone();
                catalog.get_segment(GetSegmentRequest { tenant_id, ..get }).await.unwrap();
            }
            let slug = Some("basic-package".to_owned());
            for get in [
                GetPackageRequest { slug, ..Default::default() },
                GetPackageRequest { package_id: tenant.package_ids[0].clone(), ..Default::default() },
            ] {
                let tenant_id = tenant_id.clone();
                catalog.get_package(GetPackageRequest { tenant_id, ..get }).await.unwrap();
            }
        }
        CatalogCall::ListSegments => {
            let list = ListSegmentsRequest { tenant_id, page_size: 1, ..Default::default() };
            catalog.list_segments(list).await.unwrap();
        }
        _ => {
            let segment_id = fixture.upsert_segment(upsert).await.unwrap().segment.unwrap().id;
            catalog.delete_segment(DeleteSegmentRequest { tenant_id, segment_id, ..Default::default() }).await.unwrap();
        }
    }
}

async fn list_packages(fixture: &Fixture, request: ListPackagesRequest) -> String {
    fixture.catalog.clone().list_packages(request).await.unwrap().into_inner().next_page_token
}

/// Adds packages named Gold to the tenant, one of them inactive, and segments named Gold.
async fn add_to(database: &TestDatabase, tenant: &NewTenant, packages: u32, segments: u32) {
    let slug = "CASE n WHEN 1 THEN 'gold' ELSE 'gold-' || n END";
    let insert = format!(
        "INSERT INTO packages
         SELECT '{id}', gen_random_uuid(), '{general}', {slug}, 'Gold', '', 0, 'DATE', n + 3, n <> 9, now(), now()
           FROM generate_series(1, {packages}) AS n;
         INSERT INTO segments
         SELECT '{id}', gen_random_uuid(), {slug}, 'Gold', 'Gold', '', n, true, now(), now()
           FROM generate_series(1, {segments}) AS n;
         UPDATE tenant_usage SET package_count = 3 + {packages}, segment_count = 1 + {segments}
          WHERE tenant_id = '{id}'",
        id = tenant.id,
        general = tenant.general_id,
    );
    database.execute(insert).await;
}

async fn create_two_tenants(database: &TestDatabase) -> [NewTenant; 2] {
    let fixture = start_on(database).await;
    let tenants = [fixture.tenant("small").await, fixture.tenant("large").await];
    fixture.server.stop().await;
    tenants
}

/// Each search for a free number takes at most this many lookups, of four pages each.
const MAX_SLUG_LOOKUPS: i64 = 40;

#[tokio::test]
async fn every_catalog_call_reads_as_much_in_a_tenant_with_20_000_packages_as_in_one_with_20() {
    with_own_postgres(async |database| measure_catalog_calls(&database).await).await;
}

async fn measure_catalog_calls(database: &TestDatabase) {
    let [small, large] = create_two_tenants(database).await;
    add_to(database, &small, 20, 20).await;
    add_to(database, &large, 20_000, 5_000).await;
    // By these statistics a tenant has what it is created with, and reading all of that would be as cheap as one row.
    let many_small_tenants = "INSERT INTO segments
         SELECT md5(n::text)::uuid, gen_random_uuid(), 'general', 'Small', 'Small', '', 0, true, now(), now()
           FROM generate_series(1, 20000) AS n;
         INSERT INTO packages
         SELECT tenant_id, gen_random_uuid(), id, 'gold-' || n, 'Gold', '', 0, 'DATE', n, true, now(), now()
           FROM segments, generate_series(1, 3) AS n WHERE name = 'Small'";
    database.execute_without_triggers(many_small_tenants).await;
    database.execute("VACUUM ANALYZE").await;
    for call in CATALOG_CALLS {
        let mut pages = [0, 0];
        for (pages, tenant) in pages.iter_mut().zip([&small, &large]) {
            *pages = measure(database, PAGES, async |fixture| {
                for _ in 0..CALLS {
                    make(call, fixture, tenant).await;
                }
            })
            .await;
        }
        let generates_slug = matches!(call, CatalogCall::CreateWithGeneratedSlug | CatalogCall::CreateAndDeleteSegment);
        let lookups = if generates_slug { MAX_SLUG_LOOKUPS * 4 * CALLS } else { 0 };
        assert!(pages[1] * 2 <= pages[0] * 3 + lookups * 2, "{pages:?} pages: {call:?}");
    }
}

/// Postgres keeps a plan that it made while the tables were small.
#[tokio::test]
async fn catalog_calls_whose_plans_are_from_an_almost_empty_database_do_not_read_more_when_it_is_full() {
    let mut rows = [0, 0];
    for (index, rows) in rows.iter_mut().enumerate() {
        *rows = with_own_postgres(async |database| {
            let tenants = create_two_tenants(&database).await;
            add_to(&database, &tenants[0], 20, 20).await;
            measure(&database, ROWS, async |fixture| {
                for call in CATALOG_CALLS {
                    for _ in 0..CALLS {
                        make(call, fixture, &tenants[0]).await;
                    }
                }
                // What this reads is the same in both cases.
                add_to(&database, &tenants[1], 20_000, 5_000).await;
                for call in CATALOG_CALLS {
                    for _ in 0..CALLS {
                        make(call, fixture, &tenants[index]).await;
                    }
                }
            })
            .await
        })
        .await;
    }
    // One call that reads its whole tenant reads 20,000 packages, or 5,000 segments.
    assert!((rows[1] - rows[0]).abs() < 5_000, "{rows:?} rows");
}

/// Makes calls that concern a tenant as a whole, replays included.
async fn make_tenant_calls(fixture: &Fixture, created: &CreateFullyProvisionedResponse) {
    let tenant = created.tenant.as_ref().unwrap();
    for _ in 0..CALLS {
        let id = Uuid::new_v4();
        let request_id = Some(id.to_string());
        fixture
            .create(CreateFullyProvisionedRequest { request_id, ..named(&format!("t{}", id.simple())) })
            .await
            .unwrap();
        assert!(fixture.create(bella_with_request_id()).await.unwrap().replayed);
        fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap();
        fixture.get(Identifier::Slug(tenant.slug.clone())).await.unwrap();
        fixture.get(Identifier::PublicKey(tenant.api_key_public.clone())).await.unwrap();
        fixture.get(Identifier::ExternalId("none".to_owned())).await.unwrap_err();
        fixture.get(Identifier::OwnerEmail("none@example.com".to_owned())).await.unwrap_err();
        fixture.verify(&created.secret_key).await;
        fixture.suspend_tenant(&tenant.id).await.unwrap();
        fixture.keys(&tenant.id).await;
        fixture.try_rotate(rotation(&tenant.id, None)).await.unwrap();
        list_two_pages(fixture, &ListTenantsRequest { page_size: 1, ..Default::default() }, None).await;
    }
}

#[tokio::test]
async fn tenant_calls_whose_plans_are_from_an_almost_empty_database_do_not_read_more_when_it_is_full() {
    let mut rows = [0, 0];
    for (rows, tenants) in rows.iter_mut().zip([100, 20_000]) {
        let insert = format!(
            "SET session_replication_role = replica;
             INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at)
             SELECT md5(n::text)::uuid, 'xx-' || n, 'Bella', 10, '{{}}', true, now(), now()
               FROM generate_series(1, {tenants}) AS n;
             INSERT INTO owners (tenant_id, email, canonical_email, password_hash)
             SELECT md5(n::text)::uuid, n || '@x', n || '@x', '$argon2id$' FROM generate_series(1, {tenants}) AS n;
             INSERT INTO api_keys (key_id, tenant_id, public_key, secret_hash, created_at)
             SELECT left(md5(n::text), 16), md5(n::text)::uuid, 'pk_live_x_' || left(md5(n::text), 16), '$argon2id$', now()
               FROM generate_series(1, {tenants}) AS n;
             INSERT INTO idempotency_records (caller, rpc, request_hash, fingerprint, tenant_id, key_id, created_at)
             SELECT 'x', 'x', sha256(n::text::bytea), sha256('x'), md5(n::text)::uuid, 'x', now()
               FROM generate_series(1, {tenants}) AS n;
             INSERT INTO packages
             SELECT tenant_id, gen_random_uuid(), segment_id, 'gold-' || n, 'Gold', '', 0, 'DATE', n, true, now(), now()
               FROM packages, generate_series(1, {tenants}) AS n WHERE slug = 'basic-package'"
        );
        *rows = with_own_postgres(async |database| {
            measure(&database, ROWS, async |fixture| {
                let created = fixture.create(bella_with_request_id()).await.unwrap();
                make_tenant_calls(fixture, &created).await;
                fixture.database.execute(insert).await;
                make_tenant_calls(fixture, &created).await;
            })
            .await
        })
        .await;
    }
    assert!((rows[1] - rows[0]).abs() < 10_000, "{rows:?} rows");
}

/// Makes every call about an owner, with a known address and an unknown one.
async fn make_owner_calls(fixture: &Fixture, tenant: &NewTenant) {
    for number in 0..CALLS {
        fixture.set_owner(&tenant.id, BELLA, Some(PASSWORD)).await.unwrap();
        for (email, password) in [(BELLA, PASSWORD), ("unknown@example.com", PASSWORD)] {
            fixture.verify_password(email, password, Some(&number.to_string())).await.unwrap();
            fixture.change_password(email, password, PASSWORD).await.unwrap();
            fixture.verify_email(&fixture.verification_token(email).await).await;
            let token = fixture.reset_token(email).await;
            for _ in 0..2 {
                fixture.reset_password(&token, PASSWORD).await.unwrap();
            }
        }
        fixture.advance_clock(time::Duration::minutes(16));
    }
}

#[tokio::test]
async fn owner_calls_whose_plans_are_from_an_almost_empty_database_do_not_read_more_when_it_is_full() {
    let mut rows = [0, 0];
    for (rows, owners) in rows.iter_mut().zip([100, 20_000]) {
        let insert = format!(
            "SET session_replication_role = replica;
             INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at)
             SELECT md5(n::text)::uuid, 'xx-' || n, 'Bella', 10, '{{}}', true, now(), now()
               FROM generate_series(1, {owners}) AS n;
             INSERT INTO owners (tenant_id, email, canonical_email, reset_token_hash, reset_token_expires_at,
                                 verification_token_hash, verification_token_expires_at)
             SELECT md5(n::text)::uuid, n || '@x', n || '@x', sha256(n::text::bytea), now(), sha256(n::text::bytea), now()
               FROM generate_series(1, {owners}) AS n;
             INSERT INTO password_attempts (email_hash, pair_hash, wrong, pending, started_at, last_attempt_at)
             SELECT sha256((n % 1000)::text::bytea), sha256(n::text::bytea), 10, 0, '2100-01-01', now()
               FROM generate_series(1, {owners}) AS n"
        );
        *rows = with_own_postgres(async |database| {
            measure(&database, ROWS, async |fixture| {
                let tenant = fixture.tenant("bella").await;
                // As an operator's database after its first day: few rows, and statistics that say so.
                make_owner_calls(fixture, &tenant).await;
                fixture.database.execute("ANALYZE").await;
                make_owner_calls(fixture, &tenant).await;
                fixture.database.execute(insert).await;
                make_owner_calls(fixture, &tenant).await;
            })
            .await
        })
        .await;
    }
    assert!((rows[1] - rows[0]).abs() < 10_000, "{rows:?} rows");
}
