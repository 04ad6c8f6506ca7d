//! Floods, by mistake or on purpose: the excess is refused, memory stays bounded, and others go on.

use std::fs;

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use tempfile::tempdir_in;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    task::{JoinSet, yield_now},
};
use tonic::{Code, transport::Channel};
use turnkey::grpc::pb::{
    ListPackagesRequest, Verdict, VerifyApiKeyRequest, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::{
    cluster::{Cluster, TestDatabase},
    create_from_signup::signup,
    fixture::{Fixture, bella, channel, named, reason, unknown_secret_key},
    limits::{CREATE, post},
    load::{Load, Outcome},
    process::{Program, serving},
    process_memory::memory_kib,
};

#[tokio::test]
async fn a_flood_of_wrong_keys_is_answered_or_refused_and_others_go_on() {
    let fixture = Fixture::start().await;
    let bella = fixture.tenant("bella").await;
    let mut flood = JoinSet::new();
    for _ in 0..200 {
        let (mut client, secret_key) = (fixture.provisioning.clone(), unknown_secret_key(&bella.public_key));
        flood.spawn(async move {
            client.verify_api_key(VerifyApiKeyRequest { secret_key }).await.map(tonic::Response::into_inner)
        });
    }
    let packages = ListPackagesRequest { tenant_id: bella.id, ..Default::default() };
    let mut listed = 0;
    while let Some(answer) = flood.join_next().await {
        match answer.unwrap() {
            Ok(answer) => assert_eq!(answer.verdict(), Verdict::Invalid),
            Err(refused) => {
                assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
            }
        }
        match fixture.catalog.clone().list_packages(packages.clone()).await {
            Ok(answer) => {
                assert_eq!(answer.into_inner().packages.len(), 3);
                listed += 1;
            }
            // Connections are shared by all; whoever gets none hears so, and comes back.
            Err(refused) => assert_eq!(reason(&refused), "OVERLOADED"),
        }
    }
    assert!(listed > 0, "others go on meanwhile");
    fixture.catalog.clone().list_packages(packages).await.unwrap();
}

/// A server of its own, whose memory can be looked at.
async fn program(folder: &std::path::Path) -> (Program, String, TestDatabase) {
    let database = Cluster::get().migrated().await;
    let mut program = Program::start(&mut serving(folder, &database.server));
    let address = program.address();
    (program, address, database)
}

fn resident_kib(program: &Program) -> u64 {
    memory_kib(program.pid(), "VmRSS").unwrap()
}

fn sockets(program: &Program) -> usize {
    fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_two_thousand_connections_leaves_a_calm_server() {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Two ends of each; the program inherits what it may open.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft.max(8_192)), hard).unwrap();
    let (mut program, address, _database) = program(folder.path()).await;
    let at_rest = sockets(&program);
    let mut flood = Vec::new();
    for number in 0..2_000 {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        // Some never speak, some stop in the middle of a word, some speak another language.
        match number % 3 {
            0 => {}
            1 => socket.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap(),
            _ => socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap(),
        }
        flood.push(socket);
    }
    let mut client = TenantProvisioningClient::new(channel(&address).await);
    client.create_fully_provisioned(bella()).await.unwrap();
    let during = resident_kib(&program);
    // Nobody waits for them for long; their ends here are open still.
    while sockets(&program) > at_rest + 10 {
        yield_now().await;
    }
    drop(flood);
    client.create_fully_provisioned(named("afterwards")).await.unwrap();
    println!("{during} KiB during the flood, {} KiB after it", resident_kib(&program));
    assert!(during < 200 * 1024, "{during} KiB");
    program.signal(Signal::SIGTERM);
    drop(client);
    assert!(program.wait().success());
}

/// "Rapid reset", CVE-2023-44487: streams that are opened and given up at once, so that none counts as open. Answers how many
/// there were before the server had enough and said GOAWAY.
async fn reset_calls_on_one_connection(address: &str, most: usize) -> usize {
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut resets = 0;
    let mut ready = client.ready().await;
    while let Ok(mut client) = ready
        && resets < most
    {
        let Ok((_answer, mut stream)) = client.send_request(post(CREATE), false) else { break };
        stream.send_reset(h2::Reason::CANCEL);
        resets += 1;
        ready = client.ready().await;
    }
    driving.abort();
    resets
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_that_are_reset_at_once_leaves_a_calm_server() {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut program, address, _database) = program(folder.path()).await;
    let mut resets = 0;
    for _ in 0..10 {
        resets += reset_calls_on_one_connection(&address, 2_000).await;
    }
    assert!(resets > 100, "{resets}");
    let mut client = TenantProvisioningClient::new(channel(&address).await);
    client.create_fully_provisioned(bella()).await.unwrap();
    println!("{} KiB after {resets} resets", resident_kib(&program));
    assert!(resident_kib(&program) < 200 * 1024);
    program.signal(Signal::SIGTERM);
    drop(client);
    assert!(program.wait().success());
    assert!(!program.log.iter().any(|line| line.contains("panic")), "{:?}", program.log);
}

/// Callers go on until so many tenants are made, while others flood the server with wrong keys, sign-ups, sockets that never
/// speak and calls that are reset at once. Answers the most memory that the server took, in KiB, too.
pub async fn flood_under_load(tenants: u64) -> (Outcome, u64) {
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (program, address, database) = program(folder.path()).await;
    let client = TenantProvisioningClient::new(channel(&address).await);
    let calling = client.clone();
    let mut load = Load::start(8, move || calling.clone());
    load.more(1).await;
    let mut floods = JoinSet::new();
    for number in 0..16 {
        floods.spawn(verify_wrong_keys(client.clone()));
        floods.spawn(sign_up_again_and_again(client.clone(), number));
    }
    floods.spawn(open_sockets(address.clone()));
    floods.spawn(reset_calls(address));
    load.more(tenants).await;
    floods.shutdown().await;
    let peak_kib = memory_kib(program.pid(), "VmHWM").unwrap();
    (load.stop(&database.superuser).await, peak_kib)
}

// What a flood hears is no matter here.

async fn verify_wrong_keys(mut client: TenantProvisioningClient<Channel>) {
    let secret_key = unknown_secret_key("pk_live_nobody_0000000000000000");
    loop {
        let _ = client.verify_api_key(VerifyApiKeyRequest { secret_key: secret_key.clone() }).await;
    }
}

async fn sign_up_again_and_again(mut client: TenantProvisioningClient<Channel>, flood: u32) {
    for number in 0.. {
        let _ = client.create_from_signup(signup("Flood", &format!("flood-{flood}-{number}@example.com"))).await;
    }
}

async fn open_sockets(address: String) {
    loop {
        let mut sockets = Vec::new();
        for _ in 0..500 {
            sockets.extend(TcpStream::connect(&address).await);
        }
    }
}

async fn reset_calls(address: String) {
    loop {
        let _ = reset_calls_on_one_connection(&address, 2_000).await;
    }
}
