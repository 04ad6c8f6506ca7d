//! Health on both ports, which needs no credential.

use super::{
    catalogue::{health_checks_without_a_message, health_watches, unfinished_health_checks},
    observation::assert_withstands_with_and_without_tls,
};

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_whose_last_byte_never_arrives_use_bounded_memory_on_both_ports() {
    assert_withstands_with_and_without_tls(unfinished_health_checks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_without_a_message_leave_room_for_probes_on_both_ports() {
    assert_withstands_with_and_without_tls(health_checks_without_a_message).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_thousand_health_watches_use_bounded_memory_on_both_ports() {
    assert_withstands_with_and_without_tls(health_watches).await;
}
