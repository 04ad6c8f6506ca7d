//! The commands of docs/operations.md for a dump and its restore, run as they are written there.

use std::process::Command;

use turnkey::grpc::pb::get_tenant_request::Identifier;

use crate::support::{
    database::{Cluster, TestDatabase, postgres_bin_dir},
    fixture::Fixture,
    process::{temp_folder, turnkey},
    requests::signup,
};

const DUMP_COMMAND: &str = "pg_dump --format=custom --file=turnkey.dump -U owner turnkey";

/// The commands after a heading: its first two blocks of shell code, which dump and restore.
fn documented_commands() -> [&'static str; 2] {
    let document = include_str!("../../docs/operations.md");
    let (_, section) = document.split_once("## Backup and restore\n").unwrap();
    let blocks = section.split("```sh\n").skip(1).take(2).map(|block| block.split_once("```").unwrap().0);
    let blocks: Vec<&str> = blocks.collect();
    blocks.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_restored_by_the_documented_commands() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella-weddings").await;
    fixture.sign_up(signup("Omer", "omer@example.com")).await.unwrap();
    let superuser = Cluster::get().superuser();
    let folder = temp_folder();
    let bin = postgres_bin_dir(&superuser).await;
    let program = turnkey(folder.path());
    let program_folder = std::path::Path::new(program.get_program()).parent().unwrap();
    let path = format!("{}:{}:{}", bin.display(), program_folder.display(), std::env::var("PATH").unwrap());

    let [dump, restore] = documented_commands();
    assert!(dump.contains(DUMP_COMMAND), "{dump}");
    let (owner, database) = (fixture.database.owner.get_username(), fixture.database.owner.get_database().unwrap());
    let dump = dump.replace("-U owner turnkey", &format!("-U {owner} {database}"));
    let socket = std::path::absolute(superuser.get_socket().unwrap()).unwrap();
    let local = |text: &str, role: &str| {
        let url = format!("postgres://{role}@db/restored");
        text.replace(&url, &format!("'postgres://{role}@localhost/restored?host={}'", socket.display()))
    };
    let roles_file = format!("{}/src/store/roles.sql", env!("CARGO_MANIFEST_DIR"));
    let restore = local(&local(restore, "owner"), "booking").replace("src/store/roles.sql", &roles_file);
    for script in [dump, restore] {
        let mut command = Command::new("sh");
        command.args(["-euc", &script]).current_dir(folder.path());
        command.env("PATH", &path).env("PGHOST", &socket).env("PGUSER", superuser.get_username());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}\n{output:?}");
    }

    let restored = superuser.database("restored");
    let database = TestDatabase {
        owner: restored.clone().username("owner"),
        server: restored.clone().username("booking"),
        superuser: restored,
    };
    let fixture = Fixture::start_on(database).await;
    assert_eq!(fixture.get(Identifier::TenantId(tenant.id.clone())).await.unwrap().slug, "bella-weddings");
    assert_eq!(fixture.verify(&tenant.secret_key).await.tenant_slug, "bella-weddings");
    assert_eq!(fixture.tenant("after-the-restore").await.package_ids.len(), 3);
    let orphan = "INSERT INTO tenants SELECT gen_random_uuid(), 'orphan', 'x', 10, '{}', true, now(), now()";
    let pool = fixture.superuser_pool().await;
    let error = sqlx::query(orphan).execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("tenant_fully_provisioned"));
}
