//! Messages that never arrive, arrive slowly or are too large.

use std::time::Duration;

use h2::client::Builder;
use tokio::{task::JoinSet, time::timeout};
use tonic::Code;

use super::{
    attackers::{
        calls_without_a_message, large_headers_without_a_message, messages_byte_by_byte,
        unfinished_messages_of_every_rpc, unfinished_upserts, unfinished_upserts_within_the_limits,
    },
    call::{Call, CallEnd, Message},
    observation::assert_withstands_with_and_without_tls,
    rpcs,
    target::{Protocol, Target},
};
use crate::support::http2::{Http2, Port, zeros};

/// A call whose message has not arrived in 5 s ends; one that lasts this long has no such bound.
const END_TIMEOUT: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn upserts_whose_last_byte_never_arrives_use_bounded_memory() {
    assert_withstands_with_and_without_tls(unfinished_upserts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_within_the_limits_use_bounded_memory() {
    assert_withstands_with_and_without_tls(unfinished_upserts_within_the_limits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_message_leave_room_for_other_callers() {
    assert_withstands_with_and_without_tls(calls_without_a_message).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_with_large_headers_and_without_a_message_use_bounded_memory() {
    assert_withstands_with_and_without_tls(large_headers_without_a_message).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_arrive_byte_by_byte_leave_room_for_other_callers() {
    assert_withstands_with_and_without_tls(messages_byte_by_byte).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_of_every_rpc_on_both_ports_use_bounded_memory() {
    assert_withstands_with_and_without_tls(unfinished_messages_of_every_rpc).await;
}

/// The RPCs of each port, with the platform's token on that of the service.
fn ports(target: &Target) -> [(&Port, Vec<String>, Option<&str>); 2] {
    let token = target.platform_token.as_deref();
    [(&target.service, rpcs::with_one_message(), token), (&target.health, rpcs::health(), None)]
}

async fn connect(port: &Port) -> Http2 {
    port.http2(&Builder::new()).await.unwrap()
}

/// Makes the call; `None` if it does not end.
async fn end_of(connection: &Http2, call: &Call) -> Option<CallEnd> {
    timeout(END_TIMEOUT, call.make(connection.requests.clone(), ())).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_does_not_arrive_ends_every_call_with_deadline_exceeded() {
    let target = Target::start(Protocol::Plaintext).await;
    let mut calls = JoinSet::new();
    for (port, paths, token) in ports(&target) {
        for path in paths {
            let announced = rpcs::message_limit(&path);
            let messages =
                [Message::Absent, Message::WithoutLastByte { announced: 100 }, Message::ByteByByte { announced }];
            for message in messages {
                let (connection, call) = (connect(port).await, Call::new(&path, token, message));
                calls.spawn(async move { (end_of(&connection, &call).await, call.path, call.message) });
            }
        }
    }
    while let Some(ended) = calls.join_next().await {
        let (end, path, message) = ended.unwrap();
        assert_eq!(end, Some(CallEnd::Status(Code::DeadlineExceeded)), "{path}: {message:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_refused_as_soon_as_it_announces_more_than_its_rpc_permits() {
    let target = Target::start(Protocol::Plaintext).await;
    for (port, paths, token) in ports(&target) {
        let connection = connect(port).await;
        for path in paths {
            let limit = rpcs::message_limit(&path);
            let too_large = Call::new(&path, token, Message::Announced { bytes: limit + 1 });
            let end = end_of(&connection, &too_large).await;
            assert_eq!(end, Some(CallEnd::Status(Code::ResourceExhausted)), "{path} with {limit} + 1 bytes");
            let largest = Call::complete(&path, token, &zeros(limit));
            let end = end_of(&connection, &largest).await;
            // Zeros are no protobuf message.
            assert_eq!(end, Some(CallEnd::Status(Code::Internal)), "{path} with {limit} bytes");
        }
    }
}
