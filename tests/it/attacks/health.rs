//! Health on both ports, which needs no credential.

use super::{
    attackers::{Attack, health_checks_without_a_message, health_watches, unfinished_health_checks},
    observation::{assert_withstands, assert_withstands_with_and_without_tls},
    target::{PROTOCOLS, Target},
};

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_whose_last_byte_never_arrives_use_bounded_memory_on_both_ports() {
    assert_withstands_with_and_without_tls(unfinished_health_checks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_without_a_message_leave_room_for_probes_on_both_ports() {
    assert_excess_is_refused(health_checks_without_a_message::<20>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_health_watches_leave_room_for_probes_on_both_ports() {
    assert_excess_is_refused(health_watches::<20>).await;
}

async fn assert_excess_is_refused(attack: Attack) {
    for protocol in PROTOCOLS {
        let target = Target::start(protocol).await;
        let ends = assert_withstands(&target, attack).await;
        assert!(ends.contains_key("ResourceExhausted"), "{protocol:?}: {ends:?}");
        target.stop();
    }
}
