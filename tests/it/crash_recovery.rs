//! The server is killed at random moments under load. No tenant is incomplete, every acknowledged tenant is in the
//! database, and a repeated call gets the tenant of the first.

use crate::support::faults::kill_server_under_load;

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_tenant_is_lost_or_incomplete_after_twenty_kills_of_the_server() {
    let seed = rand::random();
    let outcome = kill_server_under_load(20, seed).await;
    assert!(outcome.is_sound() && outcome.failed_attempts > 0, "{outcome:?} with seed {seed}");
}
