//! The server is killed at random moments under load: no orphan, every answer that anyone got is in the database, and a
//! repeat gets what the first call made.

use nix::sys::signal::Signal;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::tempdir_in;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::{
    cluster::Cluster,
    load::{Client, Load, Outcome},
    process::{Program, serving},
};

/// That many times, after that many answers as come up.
pub async fn kill_under_load(kills: u32, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let database = Cluster::get().migrated().await;
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let start = || {
        let mut program = Program::start(&mut serving(folder.path(), &database.server));
        let endpoint = Endpoint::from_shared(format!("http://{}", program.address())).unwrap();
        (program, Client::new(endpoint.connect_lazy()))
    };
    let (mut program, client) = start();
    let (moved, client) = watch::channel(client);
    let mut load = Load::start(8, move || client.borrow().clone());
    for _ in 0..kills {
        load.more(random.random_range(1..60)).await;
        program.signal(Signal::SIGKILL);
        let (another, client) = start();
        program = another;
        moved.send_replace(client);
    }
    load.more(60).await;
    load.stop(&database.superuser).await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing_that_was_answered_and_leave_nothing_half() {
    let seed = rand::random();
    let outcome = kill_under_load(20, seed).await;
    assert!(outcome.is_sound() && outcome.failed_tries > 0, "{outcome:?} by seed {seed}");
}
