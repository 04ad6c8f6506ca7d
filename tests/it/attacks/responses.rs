//! Responses that are never read, and frames that no call reads.

use super::{
    attackers::{floods_of_frames, unread_connections, unread_pages, unread_responses_of_every_rpc},
    observation::{POD_KIB, assert_withstands_with_and_without_tls, peak_kib},
    other_callers::is_healthy,
    target::{PROTOCOLS, Setup, Target},
};

#[tokio::test(flavor = "multi_thread")]
async fn large_pages_that_are_never_read_use_bounded_memory() {
    assert_withstands_with_and_without_tls(unread_pages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_never_read_use_bounded_memory() {
    assert_withstands_with_and_without_tls(unread_connections).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_use_bounded_memory() {
    assert_withstands_with_and_without_tls(floods_of_frames).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_of_every_rpc_use_bounded_memory() {
    assert_withstands_with_and_without_tls(unread_responses_of_every_rpc).await;
}

/// Without tokens there are no shares: all callers are one, and it may call every RPC.
#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_of_a_server_without_tokens_use_bounded_memory() {
    for protocol in PROTOCOLS {
        let target = Target::start_with(&Setup { protocol, has_tokens: false, ..Setup::default() }).await;
        for attack in [unread_pages, unread_responses_of_every_rpc] {
            let peak_kib = peak_kib(&target, attack).await;
            assert!(peak_kib < POD_KIB, "{protocol:?}: {peak_kib} KiB");
        }
        assert!(is_healthy(&target).await);
        target.stop();
    }
}
