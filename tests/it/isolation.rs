//! Tenant isolation: no tenant can see or change the rows of another one, neither through SQL without a tenant
//! condition nor, in [`rpcs`], through an RPC.

mod rpcs;

use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, PgPool};

use crate::support::{
    citus::{PROPAGATE_SETTINGS, citus_bin, is_skipped_on_citus},
    database::SERVER,
    fixture::{Fixture, NewTenant},
};

/// How earlier transactions of the other tenant on the same connection ended.
const EARLIER_TRANSACTIONS: [&[&str]; 4] =
    [&[], &["COMMIT"], &["ROLLBACK"], &["COMMIT", "ROLLBACK", "COMMIT", "ROLLBACK", "COMMIT", "ROLLBACK"]];

/// All rows of the tables with data of tenants.
async fn all_rows(fixture: &Fixture) -> Vec<String> {
    rows(&mut fixture.database.superuser.connect().await.unwrap()).await
}

async fn rows(connection: &mut PgConnection) -> Vec<String> {
    let sql = "SELECT tenants::text FROM tenants UNION ALL SELECT segments::text FROM segments
               UNION ALL SELECT packages::text FROM packages UNION ALL SELECT api_keys::text FROM api_keys
               UNION ALL SELECT owners::text FROM owners UNION ALL SELECT tenant_usage::text FROM tenant_usage ORDER BY 1";
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

fn rows_of(tenant: &NewTenant, rows: &[String]) -> Vec<String> {
    rows.iter().filter(|row| row.contains(&tenant.id)).cloned().collect()
}

/// Returns the number of changed rows, or the SQLSTATE of the error.
async fn run(connection: &mut PgConnection, sql: impl Into<String>) -> Result<u64, String> {
    let result = sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await;
    result
        .map(|result| result.rows_affected())
        .map_err(|error| error.as_database_error().unwrap().code().unwrap().into())
}

/// Opens a transaction as the role of catalog calls.
async fn begin(connection: &mut PgConnection, tenant: &NewTenant) {
    begin_without_tenant(connection).await;
    run(connection, format!("SET LOCAL turnkey.tenant_id = '{}'", tenant.id)).await.unwrap();
}

async fn begin_without_tenant(connection: &mut PgConnection) {
    run(connection, "BEGIN").await.unwrap();
    run(connection, PROPAGATE_SETTINGS).await.unwrap();
    run(connection, "SET LOCAL ROLE turnkey_catalog").await.unwrap();
}

/// The tenant of each row that a query without a tenant condition sees.
async fn visible_tenants(connection: &mut PgConnection) -> Vec<String> {
    let sql = "SELECT tenant_id::text FROM packages UNION ALL SELECT tenant_id::text FROM segments
               UNION ALL (SELECT id::text FROM tenants ORDER BY deleted_at)
               UNION ALL SELECT tenant_id::text FROM tenant_usage";
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

/// Statements that would move rows of the first tenant to the second, or change rows of the second.
fn intrusions(other: &NewTenant) -> [String; 7] {
    let NewTenant { id, general_id, package_ids, .. } = other;
    let package = format!(
        "INSERT INTO packages VALUES ('{id}', '{}', '{general_id}', 'basic-package', 'Mine', '', 0, 'DATE', 1, true,
                                      now(), now())",
        package_ids[0]
    );
    [
        format!(
            "INSERT INTO segments VALUES ('{id}', gen_random_uuid(), 'mine', 'Mine', 'Mine', '', 0, true, now(), now())"
        ),
        package.replace(&package_ids[0], "00000000-0000-4000-8000-000000000000").replace("basic-package", "mine"),
        format!("{package} ON CONFLICT (tenant_id, id) DO UPDATE SET name = 'Mine'"),
        format!("UPDATE packages SET tenant_id = '{id}', segment_id = '{general_id}'"),
        format!("UPDATE segments SET tenant_id = '{id}' WHERE slug = 'empty'"),
        format!("INSERT INTO tenant_usage VALUES ('{id}', 0, 0)"),
        format!(
            "INSERT INTO tenant_usage VALUES ('{id}', 0, 0) ON CONFLICT (tenant_id) DO UPDATE SET package_count = 0"
        ),
    ]
}

/// Creates two tenants, the first with an additional empty segment, and connections of the server role.
async fn start() -> (Fixture, NewTenant, NewTenant, Vec<PgConnection>) {
    let fixture = Fixture::start().await;
    let (tenant, other) = (fixture.tenant("bella").await, fixture.tenant("other").await);
    let empty = format!(
        "INSERT INTO segments VALUES ('{}', gen_random_uuid(), 'empty', 'E', 'E', '', 0, true, now(), now())",
        tenant.id
    );
    run(&mut fixture.database.superuser.connect().await.unwrap(), empty).await.unwrap();
    let mut connections = Vec::new();
    for transactions in EARLIER_TRANSACTIONS {
        let mut connection = fixture.database.server.connect().await.unwrap();
        for end in transactions {
            begin(&mut connection, &other).await;
            assert_eq!(visible_tenants(&mut connection).await, vec![other.id.clone(); 6]);
            run(&mut connection, *end).await.unwrap();
        }
        connections.push(connection);
    }
    (fixture, tenant, other, connections)
}

#[tokio::test]
async fn a_query_without_a_tenant_condition_sees_only_the_rows_of_its_tenant() {
    let (_fixture, tenant, _other, connections) = start().await;
    for mut connection in connections {
        begin(&mut connection, &tenant).await;
        assert_eq!(visible_tenants(&mut connection).await, vec![tenant.id.clone(); 7]);
    }
}

#[tokio::test]
async fn a_change_without_a_tenant_condition_changes_only_the_rows_of_its_tenant() {
    if is_skipped_on_citus("no other role can read what a transaction has written") {
        return;
    }
    let (fixture, tenant, other, connections) = start().await;
    let before = all_rows(&fixture).await;
    for mut connection in connections {
        for (packages, segments) in [
            ("UPDATE packages SET name = 'Changed'", "UPDATE segments SET name = 'Changed'"),
            ("DELETE FROM packages", "DELETE FROM segments"),
        ] {
            begin(&mut connection, &tenant).await;
            assert_eq!(run(&mut connection, packages).await, Ok(3));
            assert_eq!(run(&mut connection, segments).await, Ok(2));
            assert_eq!(run(&mut connection, "UPDATE tenant_usage SET package_count = 0").await, Ok(1));
            // The login role sees all rows, and in this transaction also the changes.
            run(&mut connection, "RESET ROLE").await.unwrap();
            let after = rows(&mut connection).await;
            assert_eq!(rows_of(&other, &after), rows_of(&other, &before), "{packages}");
            assert_ne!(rows_of(&tenant, &after), rows_of(&tenant, &before), "{packages}");
            run(&mut connection, "ROLLBACK").await.unwrap();
        }
    }
}

#[tokio::test]
async fn no_row_can_be_moved_to_another_tenant() {
    let (fixture, tenant, other, connections) = start().await;
    let before = all_rows(&fixture).await;
    for mut connection in connections {
        for intrusion in intrusions(&other) {
            begin(&mut connection, &tenant).await;
            let refusal = run(&mut connection, &intrusion).await.unwrap_err();
            // Citus itself refuses each change of a distributed row's tenant.
            let is_refused_by_citus = citus_bin().is_some() && refusal == "0A000";
            assert!(refusal == "42501" || is_refused_by_citus, "{intrusion}: {refusal}");
            run(&mut connection, "ROLLBACK").await.unwrap();
        }
    }
    assert_eq!(all_rows(&fixture).await, before);
}

#[tokio::test]
async fn without_the_tenant_setting_no_row_is_visible() {
    let (fixture, _tenant, other, connections) = start().await;
    let before = all_rows(&fixture).await;
    for (mut connection, transactions) in connections.into_iter().zip(EARLIER_TRANSACTIONS) {
        begin_without_tenant(&mut connection).await;
        let setting: Option<String> = sqlx::query_scalar("SELECT current_setting('turnkey.tenant_id', true)")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(setting.as_deref(), if transactions.is_empty() { None } else { Some("") });
        assert!(visible_tenants(&mut connection).await.is_empty());
        for sql in [
            "UPDATE packages SET name = 'X'",
            "DELETE FROM packages",
            "DELETE FROM segments",
            "UPDATE tenant_usage SET segment_count = 0",
        ] {
            assert_eq!(run(&mut connection, sql).await, Ok(0), "{sql}");
        }
        run(&mut connection, "COMMIT").await.unwrap();
        for intrusion in intrusions(&other).iter().filter(|sql| sql.starts_with("INSERT")) {
            begin_without_tenant(&mut connection).await;
            assert_eq!(run(&mut connection, intrusion).await, Err("42501".to_owned()), "{intrusion}");
            run(&mut connection, "ROLLBACK").await.unwrap();
        }
    }
    assert_eq!(all_rows(&fixture).await, before);
}

/// Runs a query that returns names.
async fn names(superuser: &PgPool, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(superuser).await.unwrap()
}

#[tokio::test]
async fn the_catalog_role_has_no_right_on_other_tables_and_columns() {
    let (fixture, tenant, _other, mut connections) = start().await;
    let superuser = fixture.superuser_pool().await;
    let mut forbidden: Vec<String> = [
        "SELECT * FROM tenants",
        "SELECT id FROM tenants FOR UPDATE",
        "INSERT INTO tenants (id) VALUES (gen_random_uuid())",
        "UPDATE tenants SET deleted_at = NULL",
        "DELETE FROM tenants",
        "TRUNCATE tenants CASCADE",
        "TRUNCATE packages",
        "TRUNCATE segments CASCADE",
        "UPDATE tenant_usage SET tenant_id = tenant_id",
        "DELETE FROM tenant_usage",
        "TRUNCATE tenant_usage",
        "ALTER TABLE packages DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine ()",
    ]
    .map(str::to_owned)
    .into();
    let columns = "SELECT attname::text FROM pg_attribute
                    WHERE attrelid = 'tenants'::regclass AND attnum > 0 AND attname NOT IN ('id', 'deleted_at')";
    for column in names(&superuser, columns).await {
        forbidden.push(format!("SELECT {column} FROM tenants"));
        // DEFAULT is the only value that every column can be set to, generated ones included.
        forbidden.push(format!("UPDATE tenants SET {column} = DEFAULT"));
    }
    let tables = "SELECT tablename::text FROM pg_tables
                   WHERE schemaname = 'public' AND tablename NOT IN ('tenants', 'segments', 'packages', 'tenant_usage')";
    let tables = names(&superuser, tables).await;
    assert!(["api_keys", "owners", "_sqlx_migrations"].iter().all(|known| tables.iter().any(|table| table == known)));
    for table in tables {
        for statement in ["SELECT FROM", "SELECT count(*) FROM", "DELETE FROM", "TRUNCATE"] {
            forbidden.push(format!("{statement} {table}"));
        }
        forbidden.push(format!("INSERT INTO {table} DEFAULT VALUES"));
        let column = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum = 1";
        let column: String = sqlx::query_scalar(column).bind(&table).fetch_one(&superuser).await.unwrap();
        forbidden.push(format!("UPDATE {table} SET {column} = {column}"));
    }
    for statement in forbidden {
        begin(&mut connections[0], &tenant).await;
        assert_eq!(run(&mut connections[0], &statement).await, Err("42501".to_owned()), "{statement}");
        run(&mut connections[0], "ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn the_server_roles_have_no_unneeded_rights() {
    let fixture = Fixture::start().await;
    let superuser = fixture.superuser_pool().await;
    let powers = "SELECT rolname::text FROM pg_roles
                   WHERE rolname IN ('turnkey_server', 'turnkey_provisioner', 'turnkey_catalog')
                     AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)";
    assert!(names(&superuser, powers).await.is_empty());
    let logins = "SELECT rolname::text FROM pg_roles
                   WHERE rolname IN ('turnkey_server', 'turnkey_provisioner', 'turnkey_catalog') AND rolcanlogin";
    // The nodes of Citus connect to one another as the role of the transaction.
    let expected: &[&str] = if citus_bin().is_some() { &[SERVER, "turnkey_catalog"] } else { &[SERVER] };
    assert_eq!(names(&superuser, logins).await, expected);
    let owned = "SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
                  WHERE deptype = 'o' AND refclassid = 'pg_authid'::regclass
                    AND refobjid IN ('turnkey_server'::regrole, 'turnkey_provisioner'::regrole,
                                     'turnkey_catalog'::regrole)
                    AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))";
    assert!(names(&superuser, owned).await.is_empty());
    let memberships = "SELECT member::regrole || ' in ' || roleid::regrole FROM pg_auth_members
                        WHERE member IN ('turnkey_server'::regrole, 'turnkey_provisioner'::regrole,
                                         'turnkey_catalog'::regrole)
                        ORDER BY 1";
    let expected = ["turnkey_provisioner in turnkey_catalog", "turnkey_server in turnkey_provisioner"];
    assert_eq!(names(&superuser, memberships).await, expected);
}
