//! Connections that are held, that are opened slowly, and more of them than there are descriptors.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use h2::client::Builder;
use tokio::time::sleep;

use super::{
    attackers::{Attack, idle_connections, slow_handshakes},
    observation::assert_withstands,
    other_callers::is_accepted,
    target::{PROTOCOLS, Protocol, Setup, Target},
};
use crate::support::process::through_shell;

const MAX_CONNECTIONS: usize = 200;
const FEW_CONNECTIONS: [(&str, &str); 1] = [("TURNKEY_MAX_CONNECTIONS", "200")];
/// A changed tokens file is in force within 2 s; one that is not by now cannot be read.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);

async fn assert_withstands_with_few_connections(attack: Attack) {
    for protocol in PROTOCOLS {
        let setup = Setup { protocol, environment: &FEW_CONNECTIONS, ..Setup::default() };
        let target = Target::start_with(&setup).await;
        assert_withstands(&target, attack).await;
        target.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_can_hold_half_of_the_connections() {
    for protocol in PROTOCOLS {
        let setup = Setup { protocol, environment: &FEW_CONNECTIONS, ..Setup::default() };
        let target = Target::start_with(&setup).await;
        for port in [&target.service, &target.health] {
            let mut open = Vec::new();
            for _ in 0..MAX_CONNECTIONS + 20 {
                // The server closes the excess during the handshake or after it.
                if let Ok(mut connection) = port.http2(&Builder::new()).await
                    && connection.is_open().await
                {
                    open.push(connection);
                }
            }
            assert_eq!(open.len(), MAX_CONNECTIONS / 2, "{protocol:?}");
        }
        target.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_that_acknowledge_pings_leave_room_for_other_callers() {
    assert_withstands_with_few_connections(idle_connections::<300>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_handshakes_leave_room_for_other_callers() {
    assert_withstands_with_few_connections(slow_handshakes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soft_limit_of_open_files_does_not_count() {
    let launcher = |command: Command| through_shell(&command, r#"ulimit -Sn "$0" && exec "$@""#, "100");
    let target = Target::start_with(&Setup { launcher: &launcher, ..Setup::default() }).await;
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut connection = target.service.http2(&Builder::new()).await.unwrap();
        assert!(connection.is_open().await, "connection {}", open.len());
        open.push(connection);
    }
    assert_withstands(&target, idle_connections::<1>).await;
    drop(open);
    target.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_token_is_refused_and_a_new_one_accepted_while_connections_use_all_descriptors() {
    let launcher = |command: Command| through_shell(&command, r#"ulimit -n "$0" && exec "$@""#, "512");
    let setup = Setup { protocol: Protocol::Plaintext, launcher: &launcher, ..Setup::default() };
    let target = Target::start_with(&setup).await;
    let removed = target.tokens.create("removed", &["provisioner"]);
    wait_until_accepted(&target, &removed, true).await;
    let mut attack = idle_connections::<600>(&target);
    attack.wait_until_in_position().await;
    let file = target.tokens.file();
    let text = fs::read_to_string(&file).unwrap();
    let entries = text.split("[[token]]").filter(|entry| !entry.contains("\"removed\""));
    fs::write(&file, entries.collect::<Vec<_>>().join("[[token]]")).unwrap();
    wait_until_accepted(&target, &removed, false).await;
    let new = target.tokens.create("new", &["provisioner"]);
    wait_until_accepted(&target, &new, true).await;
    attack.stop().await;
    target.stop();
}

async fn wait_until_accepted(target: &Target, token: &str, expected: bool) {
    let began = Instant::now();
    while is_accepted(target, token).await != expected {
        assert!(began.elapsed() < RELOAD_TIMEOUT, "accepted: {}", !expected);
        sleep(Duration::from_millis(50)).await;
    }
}
