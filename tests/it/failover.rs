//! The database stops, changes superuser and comes back under load: nothing that was answered is lost, and the service needs no
//! restart.

use std::process::Command;

use embedded_postgres::{EmbeddedPostgres, Settings};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::tempdir_in;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    cluster::{Cluster, SERVER, TestDatabase, execute},
    embedded::postmaster,
    fixture::{Fixture, named},
    health,
    load::{Load, Outcome},
    proxy::Proxy,
    replicated_cluster::ReplicatedCluster,
};

/// That many times, after that many answers as come up.
pub async fn stop_postgres_under_load(stops: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = folder.path().join("cluster");
    let settings = Settings { root: root.clone(), pg_bin: None, durable: true, max_connections: 50 };
    let postgres = EmbeddedPostgres::start(settings).await.unwrap();
    let fixture = Fixture::start_on(TestDatabase::migrated_on(&postgres).await).await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start(8, move || client.clone());
    for _ in 0..stops {
        load.more(random.random_range(1..100)).await;
        // An immediate shutdown: no checkpoint, connections are cut. Postgres' guardian starts it again.
        let killed = postmaster(&root).unwrap().to_string();
        assert!(Command::new("kill").args(["-QUIT", &killed]).status().unwrap().success());
        load.more(50).await;
    }
    let unavailable = ("Unavailable".to_owned(), "the database is unavailable".to_owned());
    assert!(load.failures().contains_key(&unavailable), "{:?}", load.failures());
    let outcome = load.stop(&fixture.database.superuser).await;
    postgres.stop().await.unwrap();
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stops_at_once_under_load_loses_nothing_that_was_answered() {
    let seed = rand::random();
    let outcome = stop_postgres_under_load(3, seed).await;
    assert!(outcome.is_sound(), "{outcome:?} by seed {seed}");
}

/// A network that swallows everything without a word, that many times, until the service says that it does not serve.
pub async fn fall_silent_under_load(silences: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let database = Cluster::get().migrated().await;
    let proxy = Proxy::start(&database.server).await;
    let server = proxy.options(&database.server);
    let fixture = Fixture::start_on(TestDatabase { server, ..database }).await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start(8, move || client.clone());
    for _ in 0..silences {
        load.more(random.random_range(1..100)).await;
        proxy.blackhole();
        health::until_it_is(&fixture, ServingStatus::NotServing).await;
        proxy.restore();
        load.more(50).await;
    }
    load.stop(&fixture.database.superuser).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_turns_read_only_and_back_needs_no_restart() {
    let fixture = Fixture::start_on(Cluster::get().migrated().await).await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start(8, move || client.clone());
    load.more(50).await;
    let superuser = &fixture.database.superuser;
    let name = superuser.get_database().unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'turnkey' AND datname =";
    // New sessions find a database that takes no writes, as after a failover that left an old primary behind.
    let read_only = "SET default_transaction_read_only = on";
    execute(superuser, format!("ALTER ROLE {SERVER} IN DATABASE {name} {read_only}")).await;
    execute(superuser, format!("{cut} '{name}'")).await;
    health::until_it_is(&fixture, ServingStatus::NotServing).await;
    // No session is cut now: those that can only read are left for new ones.
    execute(superuser, format!("ALTER ROLE {SERVER} IN DATABASE {name} RESET ALL")).await;
    load.more(50).await;
    health::until_it_is(&fixture, ServingStatus::Serving).await;
    load.stop_and_compare(superuser).await;
    for number in 0..8 {
        fixture.create(named(&format!("afterwards-{number}"))).await.unwrap();
    }
}

/// A primary is lost under load and its synchronous standby promoted.
pub async fn promote_under_load(seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let pair = ReplicatedCluster::start().await;
    let superuser = pair.superuser(0);
    let roles = format!("CREATE ROLE {SERVER} LOGIN");
    execute(&superuser, roles).await;
    let server = superuser.clone().username(SERVER);
    let database = TestDatabase { owner: superuser.clone(), server, superuser };
    database.migrate().await;
    // In the place of a name that is moved.
    let proxy = Proxy::start(&database.server).await;
    let server = proxy.options(&database.server);
    let fixture = Fixture::start_on(TestDatabase { server, ..database }).await;
    let client = fixture.provisioning.clone();
    let mut load = Load::start(8, move || client.clone());
    load.more(random.random_range(200..800)).await;
    pair.lose_primary();
    health::until_it_is(&fixture, ServingStatus::NotServing).await;
    pair.promote_standby();
    proxy.redirect_to(&pair.superuser(1));
    load.more(500).await;
    assert!(load.failures().keys().all(|(code, _)| code == "Unavailable"), "{:?}", load.failures());
    load.stop(&pair.superuser(1)).await
}
