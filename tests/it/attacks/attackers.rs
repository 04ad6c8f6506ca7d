//! The attacks. Each is what one machine does that reaches the ports, with the key of one tenant or without a
//! credential.

use std::time::Duration;

use h2::client::Builder;
use prost::bytes::Bytes;
use tokio::{io::AsyncWriteExt as _, time::sleep};

use super::{
    call::{Call, Message},
    raw_frames::{self, write_without_reading},
    rpcs::{self, BATCH_UPSERT_PACKAGES, HEALTH_CHECK, HEALTH_WATCH, LIST_PACKAGES, UPSERT_PACKAGE},
    running::{Calls, InPosition, RunningAttack},
    target::Target,
};
use crate::support::{http2::Port, requests::unknown_secret_key};

pub type Attack = fn(&Target) -> RunningAttack;

const MIB: u32 = 1024 * 1024;
/// The initial window of a client with ordinary settings.
const DEFAULT_WINDOW: u32 = 65_535;
/// Attackers that hold what they have repeat what the server ends at this rate.
const REPETITIONS: u32 = 300;

fn calls(port: &Port, connections: usize, streams_per_connection: usize, of_streams: Vec<Call>) -> Calls {
    Calls {
        port: port.clone(),
        connections,
        streams_per_connection,
        of_streams,
        initial_window: DEFAULT_WINDOW,
        repetitions_per_second: REPETITIONS,
    }
}

/// The attacker's key.
fn key(target: &Target) -> Option<&str> {
    target.key(&target.attacker)
}

/// Calls of health, which both ports serve.
fn on_both_ports(target: &Target, of_port: impl Fn(&Port) -> Calls) -> [Calls; 2] {
    [of_port(&target.service), of_port(&target.health)]
}

/// `Health/Check` on both ports: 4 MiB announced on each of 100 streams, the last byte never sent.
pub fn unfinished_health_checks(target: &Target) -> RunningAttack {
    let check = Call::new(HEALTH_CHECK, None, Message::WithoutLastByte { announced: 4 * MIB });
    RunningAttack::of_calls(on_both_ports(target, |port| calls(port, 1, 100, vec![check.clone()])))
}

/// `Health/Check` without a message in 256 streams of so many connections to each port.
pub fn health_checks_without_a_message<const CONNECTIONS: usize>(target: &Target) -> RunningAttack {
    let check = Call::new(HEALTH_CHECK, None, Message::Absent);
    RunningAttack::of_calls(on_both_ports(target, |port| calls(port, CONNECTIONS, 256, vec![check.clone()])))
}

/// `Health/Watch` in 256 streams of so many connections to each port.
pub fn health_watches<const CONNECTIONS: usize>(target: &Target) -> RunningAttack {
    let watch = Call::complete(HEALTH_WATCH, None, &[]);
    RunningAttack::of_calls(on_both_ports(target, |port| calls(port, CONNECTIONS, 256, vec![watch.clone()])))
}

/// 120 × `UpsertPackage` with 4 MiB announced, the last byte never sent.
pub fn unfinished_upserts(target: &Target) -> RunningAttack {
    let upsert = Call::new(UPSERT_PACKAGE, key(target), Message::WithoutLastByte { announced: 4 * MIB });
    RunningAttack::of_calls([calls(&target.service, 1, 120, vec![upsert])])
}

/// As [`unfinished_upserts`], with as much as the RPC permits, and with batches.
pub fn unfinished_upserts_within_the_limits(target: &Target) -> RunningAttack {
    let unfinished = |path| {
        let announced = rpcs::message_limit(path);
        Call::new(path, key(target), Message::WithoutLastByte { announced })
    };
    let unfinished = vec![unfinished(UPSERT_PACKAGE), unfinished(BATCH_UPSERT_PACKAGES)];
    RunningAttack::of_calls([calls(&target.service, 4, 256, unfinished)])
}

/// 1,024 calls that consist of their headers.
pub fn calls_without_a_message(target: &Target) -> RunningAttack {
    let list = Call::new(LIST_PACKAGES, key(target), Message::Absent);
    RunningAttack::of_calls([calls(&target.service, 4, 256, vec![list])])
}

/// The same with 12 KiB of headers each.
pub fn large_headers_without_a_message(target: &Target) -> RunningAttack {
    let list = Call { padding: 12 * 1024, ..Call::new(LIST_PACKAGES, key(target), Message::Absent) };
    RunningAttack::of_calls([calls(&target.service, 4, 256, vec![list])])
}

/// Messages that arrive one byte at a time.
pub fn messages_byte_by_byte(target: &Target) -> RunningAttack {
    let slow = |path: &str, credential| {
        let announced = rpcs::message_limit(path);
        Call::new(path, credential, Message::ByteByByte { announced })
    };
    let catalog = vec![slow(LIST_PACKAGES, key(target)), slow(BATCH_UPSERT_PACKAGES, key(target))];
    let mut attack = RunningAttack::of_calls([calls(&target.service, 4, 256, catalog)]);
    for health in on_both_ports(target, |port| calls(port, 1, 256, vec![slow(HEALTH_CHECK, None)])) {
        attack.add_calls(&health);
    }
    attack
}

/// Every RPC with the attacker's key and without a credential, on both ports: as much announced as it permits, the last
/// byte never sent.
pub fn unfinished_messages_of_every_rpc(target: &Target) -> RunningAttack {
    let unfinished = |path: &String, credential| {
        let announced = rpcs::message_limit(path);
        Call::new(path, credential, Message::WithoutLastByte { announced })
    };
    let all = rpcs::all();
    let with_key = all.iter().map(|path| unfinished(path, key(target)));
    let on_service: Vec<Call> = with_key.chain(all.iter().map(|path| unfinished(path, None))).collect();
    let on_health = all.iter().map(|path| unfinished(path, None)).collect();
    RunningAttack::of_calls([calls(&target.service, 8, 240, on_service), calls(&target.health, 8, 240, on_health)])
}

/// A client that does not read: the server may send this many bytes of each response.
fn unread(target: &Target, connections: usize, streams: usize, initial_window: u32, made: Vec<Call>) -> Calls {
    let made = made.into_iter().map(|call| Call { reads_response: false, ..call }).collect();
    Calls { initial_window, ..calls(&target.service, connections, streams, made) }
}

/// 500 × `ListPackages`, whose responses of 2 MB are never read: no byte of one half, a single byte of the other.
pub fn unread_pages(target: &Target) -> RunningAttack {
    let list = Call::complete(LIST_PACKAGES, key(target), &rpcs::request(LIST_PACKAGES, target));
    RunningAttack::of_calls([0, 1].map(|window| unread(target, 1, 250, window, vec![list.clone()])))
}

/// Every RPC, none of whose responses is read.
pub fn unread_responses_of_every_rpc(target: &Target) -> RunningAttack {
    let complete = |path: &String| Call::complete(path, key(target), &rpcs::request(path, target));
    let made = rpcs::all().iter().map(complete).collect();
    let on_health = rpcs::health().iter().map(complete).collect();
    let on_health = Calls { port: target.health.clone(), ..unread(target, 1, 250, 0, on_health) };
    RunningAttack::of_calls([unread(target, 4, 250, 0, made), on_health])
}

/// 100 batches at once, as fast as they succeed.
pub fn concurrent_batches(target: &Target) -> RunningAttack {
    let batch = rpcs::batch_of_updates(&target.attacker.id, 100);
    let batch = Call::complete(BATCH_UPSERT_PACKAGES, key(target), &batch);
    RunningAttack::of_calls([Calls { repetitions_per_second: 1_000, ..calls(&target.service, 1, 100, vec![batch]) }])
}

/// Keys with a right checksum that belong to no tenant, in 16 × 256 streams.
pub fn invented_keys(target: &Target) -> RunningAttack {
    let request = rpcs::request(LIST_PACKAGES, target);
    let invented = |number| {
        let secret_key = unknown_secret_key(&format!("pk_live_invented_{number:016}"));
        Call::complete(LIST_PACKAGES, Some(&secret_key), &request)
    };
    let invented = (0..256).map(invented).collect();
    RunningAttack::of_calls([Calls { repetitions_per_second: 5_000, ..calls(&target.service, 16, 256, invented) }])
}

/// One tenant that creates packages as fast as it can.
pub fn packages_without_end(target: &Target) -> RunningAttack {
    let batch = rpcs::batch_of_new_packages(&target.attacker.id, 200);
    let batch = Call::complete(BATCH_UPSERT_PACKAGES, key(target), &batch);
    RunningAttack::of_calls([Calls { repetitions_per_second: 1_000, ..calls(&target.service, 1, 16, vec![batch]) }])
}

/// Connections without a call, to both ports, that acknowledge PINGs. `COUNT` of them go to each port.
pub fn idle_connections<const COUNT: usize>(target: &Target) -> RunningAttack {
    on_connections(target, COUNT, hold_connection)
}

/// 300 handshakes per port, each with one byte every half second.
pub fn slow_handshakes(target: &Target) -> RunningAttack {
    on_connections(target, 300, shake_hands_slowly)
}

/// `count` attackers per port, each with its own connection.
fn on_connections<Connection>(
    target: &Target,
    count: usize,
    connect: fn(Port, InPosition) -> Connection,
) -> RunningAttack
where
    Connection: Future<Output = ()> + Send + 'static,
{
    let mut attack = RunningAttack::new();
    for port in [&target.service, &target.health] {
        for _ in 0..count {
            let port = port.clone();
            attack.add(move |in_position| connect(port.clone(), in_position));
        }
    }
    attack
}

async fn hold_connection(port: Port, in_position: InPosition) {
    if let Ok(connection) = port.http2(&Builder::new()).await {
        drop(in_position);
        connection.closed().await;
    }
}

async fn shake_hands_slowly(port: Port, in_position: InPosition) {
    // The start of a TLS record with a ClientHello of 508 bytes; the start of the HTTP/2 preface.
    let start: &[u8] =
        if port.tls.is_some() { b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" } else { b"PRI * HTTP/2.0" };
    let Ok(mut socket) = (Port { tls: None, ..port }).connect().await else { return };
    drop(in_position);
    for byte in start.iter().chain(&[0; 400]) {
        if socket.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Connections that are written to and never read, to both ports, each with one of these floods.
fn never_read(target: &Target, floods: &[Bytes], connections_per_flood: usize) -> RunningAttack {
    let mut attack = RunningAttack::new();
    for port in [&target.service, &target.health] {
        for flood in floods.iter().cycle().take(floods.len() * connections_per_flood) {
            let (port, flood) = (port.clone(), flood.clone());
            attack.add(move |in_position| write_without_reading(port.clone(), flood.clone(), in_position));
        }
    }
    attack
}

/// Calls whose responses stay in the socket: large ones, small ones, and refusals.
pub fn unread_connections(target: &Target) -> RunningAttack {
    let list = rpcs::request(LIST_PACKAGES, target);
    let floods = [
        raw_frames::calls(LIST_PACKAGES, key(target), &list),
        raw_frames::calls(LIST_PACKAGES, None, &list),
        raw_frames::calls(HEALTH_CHECK, None, &[]),
        raw_frames::calls(HEALTH_WATCH, None, &[]),
    ];
    never_read(target, &floods, 2)
}

/// Frames that the server has to acknowledge, or to keep because no call reads them.
pub fn floods_of_frames(target: &Target) -> RunningAttack {
    let list = rpcs::request(LIST_PACKAGES, target);
    let mut floods = vec![raw_frames::pings(), raw_frames::settings(), raw_frames::continuations(HEALTH_CHECK)];
    for length in [0, 1] {
        floods.push(raw_frames::data_after_the_message(LIST_PACKAGES, key(target), &list, length));
        floods.push(raw_frames::data_after_the_message(LIST_PACKAGES, None, &list, length));
        floods.push(raw_frames::data_after_the_message(HEALTH_CHECK, None, &[], length));
        floods.push(raw_frames::data_after_the_message(HEALTH_WATCH, None, &[], length));
    }
    never_read(target, &floods, 2)
}
