//! The constraint `tenant_fully_provisioned`: no role can commit an incomplete tenant.

use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{
    citus::{PROPAGATE_SETTINGS, violated_constraint},
    fixture::{Fixture, ONE_TENANT},
    requests::{bella, named},
};

const TENANT: &str = "INSERT INTO tenants VALUES
    ('11111111-1111-7111-8111-111111111111', 'from-psql', 'From Psql', 10, '{}', true, now(), now(), NULL);";
const SEGMENT: &str = "INSERT INTO segments VALUES
    ('11111111-1111-7111-8111-111111111111', '22222222-2222-7222-8222-222222222222', 'general', 'General', 'Hello', '',
     0, true, now(), now());";
const PACKAGE: &str = "INSERT INTO packages VALUES
    ('11111111-1111-7111-8111-111111111111', '33333333-3333-7333-8333-333333333333',
     '22222222-2222-7222-8222-222222222222', 'only-one', 'Only One', '', 0, 'DATE', 1, true, now(), now());";
const KEY: &str = "INSERT INTO api_keys VALUES
    ('AAAAAAAAAAAAAAAA', '11111111-1111-7111-8111-111111111111', 'pk_live_by_AAAAAAAAAAAAAAAA', '$argon2id$', now());";

/// Runs the statements in one transaction, each as a query of its own, as psql does. The error is the name of the
/// violated constraint.
async fn commit(superuser: &PgPool, statements: &str) -> Result<(), String> {
    let mut connection = superuser.acquire().await.unwrap();
    let mut result = Ok(());
    for statement in ["BEGIN", PROPAGATE_SETTINGS].into_iter().chain(statements.split(';')).chain(["COMMIT"]) {
        if result.is_ok() {
            result = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await.map(drop);
        }
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.unwrap();
    result.map_err(|error| violated_constraint(&error))
}

fn rejection() -> Result<(), String> {
    Err("tenant_fully_provisioned".to_owned())
}

#[tokio::test]
async fn a_complete_tenant_inserted_by_a_superuser_is_committed() {
    let superuser = Fixture::start().await.superuser_pool().await;
    assert_eq!(commit(&superuser, &[TENANT, SEGMENT, PACKAGE, KEY].concat()).await, Ok(()));
}

#[tokio::test]
async fn an_incomplete_tenant_inserted_by_a_superuser_is_rejected_at_commit() {
    let fixture = Fixture::start().await;
    let superuser = fixture.superuser_pool().await;
    for parts in [&[TENANT][..], &[TENANT, SEGMENT, PACKAGE], &[TENANT, SEGMENT, KEY], &[TENANT, KEY]] {
        assert_eq!(commit(&superuser, &parts.concat()).await, rejection());
    }
    let other_segment = SEGMENT.replace("'general'", "'special'");
    assert_eq!(commit(&superuser, &[TENANT, &other_segment, PACKAGE, KEY].concat()).await, rejection());
    assert_eq!(fixture.row_counts().await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn the_last_package_key_or_general_segment_cannot_be_removed() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    for statement in [
        "DELETE FROM packages;",
        "DELETE FROM packages; DELETE FROM segments;",
        "DELETE FROM api_keys;",
        "UPDATE segments SET slug = 'special';",
        "SET CONSTRAINTS ALL IMMEDIATE; DELETE FROM packages;",
        "TRUNCATE packages;",
        "TRUNCATE api_keys;",
        "TRUNCATE segments CASCADE;",
    ] {
        assert_eq!(commit(&superuser, statement).await, rejection(), "{statement}");
    }
    assert_eq!(fixture.row_counts().await, ONE_TENANT);
    assert_eq!(commit(&superuser, "DELETE FROM packages WHERE slug <> 'basic-package';").await, Ok(()));
}

#[tokio::test]
async fn the_last_key_cannot_be_moved_to_another_tenant() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    let other = fixture.create(named("other")).await.unwrap().tenant.unwrap().id;
    let superuser = fixture.superuser_pool().await;
    let moved = format!(
        "UPDATE api_keys SET tenant_id = '{other}'
          WHERE tenant_id = (SELECT id FROM tenants WHERE slug = 'bella-weddings');"
    );
    assert_eq!(commit(&superuser, &moved).await, rejection());
}

#[tokio::test]
async fn a_package_cannot_be_moved_to_the_segment_of_another_tenant() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    let foreign = fixture.create(named("other")).await.unwrap().segment.unwrap().id;
    let superuser = fixture.superuser_pool().await;
    let moved = format!(
        "UPDATE packages SET segment_id = '{foreign}'
          WHERE tenant_id = (SELECT id FROM tenants WHERE slug = 'bella-weddings');"
    );
    assert_eq!(commit(&superuser, &moved).await, Err("packages_segment_id_fkey".to_owned()));
}

#[tokio::test]
async fn a_complete_tenant_can_be_deleted_table_by_table_in_one_transaction() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    let superuser = fixture.superuser_pool().await;
    let all = "DELETE FROM packages; DELETE FROM segments; DELETE FROM api_keys; DELETE FROM tenants;";
    assert_eq!(commit(&superuser, all).await, Ok(()));
    for all in [
        "TRUNCATE tenants, segments, packages, api_keys, owners, idempotency_records, tenant_usage;",
        "TRUNCATE tenants CASCADE;",
    ] {
        assert_eq!(commit(&superuser, all).await, Ok(()), "{all}");
    }
}

/// Each transaction still sees the package that the other one deletes. Without a lock on the tenant's row both would
/// commit.
#[tokio::test]
async fn two_concurrent_transactions_cannot_delete_the_last_two_packages() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let fixture = Fixture::start().await;
        let tenant = fixture.create(bella()).await.unwrap().tenant.unwrap().id;
        let superuser = fixture.superuser_pool().await;
        assert_eq!(commit(&superuser, "DELETE FROM packages WHERE slug = 'basic-package';").await, Ok(()));

        let (mut one, mut two) = (superuser.acquire().await.unwrap(), superuser.acquire().await.unwrap());
        for (session, slug) in [(&mut one, "standard-package"), (&mut two, "premium-package")] {
            // With the tenant: Citus runs deletes of all tenants one after the other.
            let delete = format!("DELETE FROM packages WHERE tenant_id = '{tenant}' AND slug = '{slug}'");
            let sql = format!("BEGIN ISOLATION LEVEL {isolation}; {delete}");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **session).await.unwrap();
        }
        let (one, two) =
            tokio::join!(sqlx::raw_sql("COMMIT").execute(&mut *one), sqlx::raw_sql("COMMIT").execute(&mut *two));
        assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|&&is_committed| is_committed).count(), 1, "{isolation}");
        assert_eq!(fixture.count("packages").await, 1, "{isolation}");
    }
}

#[tokio::test]
async fn the_server_role_cannot_commit_an_incomplete_tenant() {
    let fixture = Fixture::start().await;
    fixture.create(bella()).await.unwrap();
    let server = PgPool::connect_with(fixture.database.server.clone()).await.unwrap();
    assert_eq!(commit(&server, "DELETE FROM api_keys;").await, rejection());
    assert_eq!(commit(&server, TENANT).await, rejection());
}

#[tokio::test]
async fn the_catalog_role_cannot_commit_an_incomplete_tenant_although_it_cannot_read_keys() {
    let fixture = Fixture::start().await;
    let tenant = fixture.create(bella()).await.unwrap().tenant.unwrap().id;
    let server = PgPool::connect_with(fixture.database.server.clone()).await.unwrap();
    let as_catalog = format!("SET LOCAL ROLE turnkey_catalog; SET LOCAL turnkey.tenant_id = '{tenant}';");
    assert_eq!(commit(&server, &format!("{as_catalog} DELETE FROM packages;")).await, rejection());
    let allowed = format!("{as_catalog} DELETE FROM packages WHERE slug = 'basic-package';");
    assert_eq!(commit(&server, &allowed).await, Ok(()));
    assert_eq!(fixture.row_counts().await, [1, 1, 2, 1]);
}
