//! What the role of the service needs, and the warning about what it may do beyond that.

use nix::sys::signal::Signal;
use turnkey::store::Probe;

use crate::support::{
    database::{Cluster, TestDatabase},
    process::{Process, database_url, temp_folder, turnkey},
};

/// A new database, and a login role that can serve it and nothing else.
async fn database_with_role(name: &str) -> TestDatabase {
    let mut database = Cluster::get().migrated().await;
    database.execute(format!("CREATE ROLE {name} LOGIN; GRANT turnkey_provisioner TO {name}")).await;
    database.server = database.server.username(name);
    database
}

async fn excess(database: &TestDatabase) -> Option<String> {
    Probe::new(database.server.clone().into()).excess_privilege().await.unwrap()
}

#[tokio::test]
async fn a_member_of_the_provisioner_role_that_owns_nothing_has_no_excess_privilege() {
    let database = database_with_role("exact").await;
    assert_eq!(excess(&database).await, None);
    let granted_again = "GRANT SELECT ON tenants TO exact; GRANT turnkey_catalog TO exact;
                         CREATE ROLE colleagues; GRANT colleagues TO exact";
    database.execute(granted_again).await;
    assert_eq!(excess(&database).await, None, "it had these, or they give it nothing");
}

#[tokio::test]
async fn attributes_and_memberships_are_reported_whether_direct_indirect_or_not_inherited() {
    for (number, (sql, expected)) in [
        ("ALTER ROLE $role BYPASSRLS", "bypasses row-level security"),
        ("ALTER ROLE $role CREATEROLE", "may create roles"),
        ("ALTER ROLE $role CREATEDB", "may create databases"),
        ("ALTER ROLE $role REPLICATION", "may replicate the cluster"),
        ("CREATE ROLE boss SUPERUSER; GRANT boss TO $role", "is a superuser through the role boss"),
        (
            "ALTER ROLE $role NOINHERIT; CREATE ROLE middle; CREATE ROLE top CREATEDB CREATEROLE;
             GRANT top TO middle; GRANT middle TO $role",
            "may create roles through the role top, may create databases through the role top",
        ),
        ("GRANT pg_write_all_data TO $role", "is a member of pg_write_all_data"),
        (
            "CREATE ROLE readers; GRANT pg_read_all_data TO readers; GRANT readers TO $role",
            "is a member of pg_read_all_data",
        ),
        ("GRANT pg_execute_server_program TO $role", "is a member of pg_execute_server_program"),
        ("GRANT turnkey_provisioner TO $role WITH ADMIN OPTION", "may grant turnkey_provisioner"),
    ]
    .into_iter()
    .enumerate()
    {
        let role = format!("member_{number}");
        let database = database_with_role(&role).await;
        database.execute(sql.replace("$role", &role)).await;
        assert_eq!(excess(&database).await.as_deref(), Some(expected), "{sql}");
    }
    let database = database_with_role("king").await;
    database.execute("ALTER ROLE king SUPERUSER").await;
    assert!(excess(&database).await.unwrap().starts_with("is a superuser"));
    let database = database_with_role("heir").await;
    database.execute("GRANT test_owner TO heir").await;
    let found = excess(&database).await.unwrap();
    assert!(found.contains("owns tables through the role test_owner"), "{found}");
}

#[tokio::test]
async fn ownership_and_grants_are_reported_also_those_of_public() {
    const MORE: &str = "has privileges on tables that turnkey_provisioner lacks";
    for (number, (sql, expected)) in [
        ("ALTER TABLE owners OWNER TO $role", "owns tables".to_owned()),
        ("CREATE VIEW names AS SELECT name FROM tenants; ALTER VIEW names OWNER TO $role", "owns tables".to_owned()),
        ("ALTER SCHEMA public OWNER TO $role", "owns the schema public".to_owned()),
        ("ALTER DATABASE $database OWNER TO $role", "owns the database".to_owned()),
        ("GRANT CREATE ON DATABASE $database TO $role", "may create schemas".to_owned()),
        ("GRANT CREATE ON SCHEMA public TO $role", "may create objects in the schema public".to_owned()),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "may create objects in the schema public".to_owned()),
        ("GRANT TRUNCATE, TRIGGER ON tenants, owners TO $role", format!("{MORE} (TRIGGER, TRUNCATE)")),
        ("GRANT TRUNCATE ON tenants TO turnkey_catalog", format!("{MORE} (TRUNCATE) through the role turnkey_catalog")),
        ("GRANT REFERENCES ON tenants TO PUBLIC", format!("{MORE} (REFERENCES)")),
        ("GRANT SELECT ON tenants TO $role WITH GRANT OPTION", format!("{MORE} (SELECT WITH GRANT OPTION)")),
        ("GRANT DELETE ON _sqlx_migrations TO $role", format!("{MORE} (DELETE)")),
        (
            "CREATE TABLE bookings (); GRANT SELECT ON bookings TO $role; GRANT CREATE ON SCHEMA public TO $role",
            format!("may create objects in the schema public, {MORE} (SELECT)"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let role = format!("granted_{number}");
        let database = database_with_role(&role).await;
        database.execute(sql.replace("$role", &role).replace("$database", database.name())).await;
        assert_eq!(excess(&database).await, Some(expected), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_lacks_its_grant_is_named_with_the_grant_and_serves_after_it() {
    let database = Cluster::get().migrated().await;
    database.execute("CREATE ROLE stranger LOGIN").await;
    let folder = temp_folder();
    let stranger = database.server.clone().username("stranger");
    let mut process = Process::start(
        turnkey(folder.path()).args(["--listen", "127.0.0.1:0"]).env("DATABASE_URL", database_url(&stranger)),
    );
    process.wait_for("Not serving: the role stranger cannot serve: run `GRANT turnkey_provisioner TO stranger`");
    database.execute("GRANT turnkey_provisioner TO stranger").await;
    process.wait_for(r#""Serving""#);
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
}
