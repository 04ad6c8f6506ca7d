//! Secrets stand in one answer and nowhere else.

use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::tempdir_in;
use turnkey::grpc::pb::CreateFullyProvisionedRequest;

use crate::{
    cluster::Cluster,
    fixture::bella,
    program::{Program, turnkey, url},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_key_and_a_request_id_are_in_no_log_line_and_no_table() {
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut program = Program::start(
        turnkey(folder.path())
            .args(["--listen", "127.0.0.1:0"])
            .env("DATABASE_URL", url(&database.server))
            .env("RUST_LOG", "trace"),
    );
    let mut client = program.provisioning().await;
    let request_id = uuid::Uuid::new_v4().to_string();
    let request = CreateFullyProvisionedRequest { request_id: Some(request_id.clone()), ..bella() };
    let answer = client.create_fully_provisioned(request.clone()).await.unwrap().into_inner();
    assert!(client.create_fully_provisioned(request.clone()).await.is_err());
    program.wait_for("Fully provisioned new tenant");
    program.signal(Signal::SIGTERM);
    program.wait();

    let random = answer.secret_key.rsplit_once('_').unwrap().1.to_owned();
    let log = program.log.join("\n");
    let tables = everything(&PgPool::connect_with(database.superuser).await.unwrap()).await;
    let debug = format!("{request:?} {answer:?}");
    assert!(log.contains("trace") || log.contains("TRACE"), "the log is as loud as it can be");
    assert!(tables.contains("bella-weddings") && tables.contains("$argon2id$"));
    for secret in [&random, &answer.secret_key, &request_id, &request_id.replace('-', "")] {
        for (place, text) in [("log", &log), ("tables", &tables), ("Debug", &debug)] {
            assert!(!text.contains(secret.as_str()), "a secret stands in the {place}");
        }
    }
}

/// All rows of all tables, as text.
async fn everything(pool: &PgPool) -> String {
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_all(pool)
            .await
            .unwrap();
    let mut rows: Vec<String> = Vec::new();
    for table in tables {
        let sql = format!("SELECT {table}::text FROM {table}");
        rows.extend(sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap());
    }
    rows.join("\n")
}
