//! The table of events as an outbox for logical replication, as docs/events.md describes it.

use embedded_postgres::{EmbeddedPostgres, Settings};
use sqlx::ConnectOptions as _;

use crate::support::{
    database::{TestDatabase, pg_bin},
    fixture::{Fixture, one_connection},
    process::temp_folder,
};

const PUBLICATION: &str = "CREATE PUBLICATION turnkey_events FOR TABLE events WITH (publish = 'insert')";
const SLOT: &str = "SELECT pg_create_logical_replication_slot('turnkey_events', 'pgoutput')";
const CHANGES: &str = "SELECT data FROM pg_logical_slot_get_binary_changes('turnkey_events', NULL, NULL,
                                                                           'proto_version', '1',
                                                                           'publication_names', 'turnkey_events')";

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_publication_has_each_event_once_in_order_and_no_deletion() {
    assert!(include_str!("../../docs/events.md").contains(PUBLICATION));
    let root = temp_folder();
    let start = || {
        // Durable, because a slot has only what has been flushed.
        let settings = Settings { root: root.path().join("c"), pg_bin: pg_bin(), durable: true, max_connections: 20 };
        EmbeddedPostgres::start(settings)
    };
    let postgres = start().await.unwrap();
    let database = TestDatabase::migrated_on(&postgres).await;
    database.execute("ALTER SYSTEM SET wal_level = 'logical'").await;
    postgres.stop().await.unwrap();
    let postgres = start().await.unwrap();
    database.execute(PUBLICATION).await;
    database.execute(SLOT).await;

    let fixture = Fixture::start_with(database.clone(), one_connection()).await;
    let tenant = fixture.tenant("bella").await;
    fixture.suspend_tenant(&tenant.id).await.unwrap();
    database.execute("DELETE FROM events").await;

    let mut connection = database.superuser.connect().await.unwrap();
    let messages: Vec<Vec<u8>> = sqlx::query_scalar(CHANGES).fetch_all(&mut connection).await.unwrap();
    // Each message begins with its kind: I is an insert, D a deletion.
    let changes: Vec<&Vec<u8>> = messages.iter().filter(|message| b"IUDT".contains(&message[0])).collect();
    let [created, suspended] = changes.as_slice() else { panic!("{changes:?}") };
    for (change, event_type) in [(created, "tenant.created"), (suspended, "tenant.suspended")] {
        let text = String::from_utf8_lossy(change);
        assert!(text.starts_with('I') && text.contains(event_type) && text.contains(&tenant.id), "{text}");
    }
    drop(fixture);
    drop(connection);
    postgres.stop().await.unwrap();
}
