//! What only Citus has: how `turnkey migrate` distributes a database, what it refuses, and reads that go to the
//! workers. The other tests run on Citus, too, if `CITUS_BIN` names one.

use std::process::Output;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, postgres::PgConnectOptions};
use tonic::Code;
use turnkey::{
    config::ServerSettings,
    grpc::pb::{DeleteTenantRequest, ListPackagesRequest, UndeleteTenantRequest},
};

use crate::support::{
    citus::{is_skipped_without_citus, violated_constraint},
    database::{Cluster, TestDatabase},
    fixture::{Fixture, settings},
    process::{database_url, temp_folder, turnkey},
    responses::reason,
};

const TABLES_OF_CITUS: &str = "SELECT string_agg(table_name || ' ' || citus_table_type, ', ' ORDER BY table_name::text)
                                 FROM citus_tables";

async fn text(database: &PgConnectOptions, sql: &str) -> String {
    let mut connection = database.connect().await.unwrap();
    let text: Option<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    text.unwrap_or_default()
}

fn migrate(database: &PgConnectOptions) -> Output {
    turnkey(temp_folder().path()).arg("migrate").env("DATABASE_URL", database_url(database)).output().unwrap()
}

/// Returns what `turnkey migrate` prints if it refuses.
fn refusal(database: &PgConnectOptions) -> String {
    let output = migrate(database);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

/// The number of rows of a table, as an administrator counts them.
async fn count(database: &TestDatabase, table: &str) -> String {
    text(&database.superuser, &format!("SELECT count(*)::text FROM {table}")).await
}

/// Returns the constraint that SQL of a superuser violates, or else the error.
async fn rejection(database: &TestDatabase, sql: &str) -> String {
    let mut connection = database.superuser.connect().await.unwrap();
    violated_constraint(&sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap_err())
}

#[tokio::test]
async fn migrate_distributes_the_catalog_and_leaves_all_else_on_the_coordinator() {
    if is_skipped_without_citus() {
        return;
    }
    let database = Cluster::get().empty().await;
    Cluster::get().connect_workers(&database).await;
    assert_eq!(migrate(&database.owner).status.code(), Some(0));
    let expected = "catalog.tenants distributed, packages distributed, segments distributed, two_phase_commit local";
    assert_eq!(text(&database.superuser, TABLES_OF_CITUS).await, expected);
    assert_eq!(migrate(&database.owner).status.code(), Some(0), "again");
    assert_eq!(text(&database.superuser, TABLES_OF_CITUS).await, expected);
}

#[tokio::test]
async fn migrate_distributes_the_tenants_that_exist() {
    if is_skipped_without_citus() {
        return;
    }
    let database = Cluster::get().empty().await;
    database.migrate().await;
    let plain = Fixture::start_on(database.clone()).await;
    let tenant = plain.tenant("bella").await;
    plain.server.stop().await;
    Cluster::get().connect_workers(&database).await;
    assert_eq!(migrate(&database.owner).status.code(), Some(0));
    let fixture = Fixture::start_on(database).await;
    assert_eq!(fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap().id, tenant.package_ids[0]);
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    fixture.tenant("napoli").await;
}

#[tokio::test]
async fn migrate_says_why_it_cannot_distribute_a_database() {
    if is_skipped_without_citus() {
        return;
    }
    let database = Cluster::get().empty().await;
    database.execute("CREATE EXTENSION citus").await;
    assert!(refusal(&database.owner).contains("citus_set_coordinator_host"));
    database.execute("SELECT citus_set_coordinator_host('/nowhere', 5432)").await;
    assert!(refusal(&database.owner).contains("citus_add_node"));

    let database = Cluster::get().empty().await;
    Cluster::get().connect_workers(&database).await;
    let worker = &Cluster::get().on_workers(&database)[0];
    assert!(refusal(&worker.superuser).contains("worker of Citus"));
    database.execute("CREATE TABLE events (id bigint); SELECT create_reference_table('events')").await;
    database.execute("ALTER TABLE events OWNER TO test_owner").await;
    assert_eq!(migrate(&database.owner).status.code(), Some(1));
    database.execute("DROP TABLE events").await;
    assert_eq!(migrate(&database.owner).status.code(), Some(0));
    database.execute("SET citus.enable_unsafe_triggers = on; SELECT create_reference_table('password_attempts')").await;
    assert!(refusal(&database.owner).contains("undistribute_table('password_attempts')"));
}

#[tokio::test]
async fn an_incomplete_tenant_is_refused_at_commit() {
    if is_skipped_without_citus() {
        return;
    }
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let superuser = fixture.superuser_pool().await;
    for sql in [
        format!("DELETE FROM packages WHERE tenant_id = '{}'", tenant.id),
        format!("UPDATE segments SET slug = 'other' WHERE tenant_id = '{}'", tenant.id),
        format!("DELETE FROM api_keys WHERE tenant_id = '{}'", tenant.id),
        "INSERT INTO tenants (id, slug, name, commission_percent, branding, is_active, created_at, updated_at)
         VALUES (gen_random_uuid(), 'orphan', 'Orphan', 10, '{}', true, now(), now())"
            .to_owned(),
    ] {
        let error = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&superuser).await.unwrap_err();
        // If the statement wrote on one worker only, the text is in a warning.
        let is_refused = ["is incomplete", "could not commit transaction for shard"];
        assert!(is_refused.iter().any(|text| error.to_string().contains(text)), "{sql}: {error}");
    }
    assert_eq!(fixture.check_integrity(None).await.unwrap(), []);
    assert_eq!(count(&fixture.database, "catalog.tenants").await, "1");
    assert_eq!(count(&fixture.database, "packages").await, "3");
}

#[tokio::test]
async fn no_node_truncates_a_catalog_while_there_are_tenants() {
    if is_skipped_without_citus() {
        return;
    }
    let fixture = Fixture::start().await;
    fixture.tenant("bella").await;
    let workers = Cluster::get().on_workers(&fixture.database);
    for node in workers.iter().chain([&fixture.database]) {
        for table in ["packages", "segments", "catalog.tenants"] {
            assert_eq!(rejection(node, &format!("TRUNCATE {table} CASCADE")).await, "tenant_fully_provisioned");
        }
    }
    assert_eq!(rejection(&fixture.database, "TRUNCATE tenants CASCADE").await, "tenant_fully_provisioned");
}

#[tokio::test]
async fn the_id_of_a_tenant_cannot_change_without_its_catalog() {
    if is_skipped_without_citus() {
        return;
    }
    let fixture = Fixture::start().await;
    fixture.tenant("bella").await;
    let change = "DELETE FROM api_keys; DELETE FROM tenant_usage; UPDATE tenants SET id = gen_random_uuid()";
    assert_eq!(
        rejection(&fixture.database, change).await,
        "the id of a tenant cannot change: its catalog is distributed by it"
    );
}

#[tokio::test]
async fn reads_of_the_catalog_go_to_the_workers_and_see_every_change_at_once() {
    if is_skipped_without_citus() {
        return;
    }
    let database = Cluster::get().migrated().await;
    let workers = Cluster::get().on_workers(&database);
    let catalog_reads =
        workers.iter().map(|worker| worker.server.get_socket().unwrap().to_str().unwrap().parse().unwrap()).collect();
    let fixture = Fixture::start_with(database, ServerSettings { catalog_reads, ..settings() }).await;
    let tenant = fixture.tenant("bella").await;
    let list = || ListPackagesRequest { tenant_id: tenant.id.clone(), ..Default::default() };
    let mut catalog = fixture.catalog.clone();
    for left in [3, 2, 1] {
        for _ in &workers {
            assert_eq!(catalog.list_packages(list()).await.unwrap().into_inner().packages.len(), left);
        }
        let _ = fixture.delete_package(&tenant.id, &tenant.package_ids[left - 1]).await;
    }
    let delete = DeleteTenantRequest { tenant_id: tenant.id.clone(), ..Default::default() };
    fixture.provisioning.clone().delete_tenant(delete).await.unwrap();
    for _ in &workers {
        let error = catalog.list_packages(list()).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    }
    let undelete = UndeleteTenantRequest { tenant_id: tenant.id.clone() };
    fixture.provisioning.clone().undelete_tenant(undelete).await.unwrap();
    catalog.list_packages(list()).await.unwrap();
    for worker in &workers {
        let reads = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database()
                                                             AND application_name = 'turnkey'";
        assert_ne!(text(&worker.superuser, reads).await, "0");
    }
}

#[tokio::test]
async fn reads_of_the_catalog_go_to_the_database_while_no_worker_can_be_reached() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let fixture = Fixture::with_settings(ServerSettings { catalog_reads: vec![nowhere], ..settings() }).await;
    let tenant = fixture.tenant("bella").await;
    fixture.package(&tenant, &tenant.package_ids[0]).await.unwrap();
}
