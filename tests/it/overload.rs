//! Floods, accidental or malicious: the excess is rejected, memory stays bounded, and other clients are served.

use std::fs;

use nix::sys::signal::Signal;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    task::{JoinSet, yield_now},
};
use tonic::Code;
use turnkey::grpc::pb::{
    ListPackagesRequest, Verdict, VerifyApiKeyRequest, tenant_provisioning_client::TenantProvisioningClient,
};

use crate::support::{
    faults::start_server,
    fixture::{Fixture, channel},
    http2::reset_streams,
    process::{Process, raise_open_files_limit, temp_folder},
    process_memory::memory_kib,
    requests::{bella, named, unknown_secret_key},
    responses::reason,
};

#[tokio::test]
async fn other_callers_are_served_during_a_flood_of_wrong_keys() {
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
    while let Some(response) = flood.join_next().await {
        match response.unwrap() {
            Ok(response) => assert_eq!(response.verdict(), Verdict::Invalid),
            Err(error) => {
                assert_eq!((error.code(), reason(&error).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
            }
        }
        match fixture.catalog.clone().list_packages(packages.clone()).await {
            Ok(response) => {
                assert_eq!(response.into_inner().packages.len(), 3);
                listed += 1;
            }
            // All callers share the pool, so a call may find it exhausted.
            Err(error) => assert_eq!(reason(&error), "OVERLOADED"),
        }
    }
    assert!(listed > 0, "other callers are served");
    fixture.catalog.clone().list_packages(packages).await.unwrap();
}

fn resident_kib(process: &Process) -> u64 {
    memory_kib(process.pid(), "VmRSS").unwrap()
}

fn sockets(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_two_thousand_connections_is_closed_and_memory_stays_bounded() {
    let folder = temp_folder();
    // The test holds one end of each connection, the server the other. The server inherits the limit of open files.
    raise_open_files_limit(8_192);
    let (mut process, address, _database) = start_server(folder.path()).await;
    let sockets_at_rest = sockets(&process);
    let mut flood = Vec::new();
    for number in 0..2_000 {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        // Some send nothing, some stop within the preface, some send HTTP/1.1.
        match number % 3 {
            0 => {}
            1 => socket.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap(),
            _ => socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap(),
        }
        flood.push(socket);
    }
    let mut client = TenantProvisioningClient::new(channel(&address).await);
    client.create_fully_provisioned(bella()).await.unwrap();
    let during = resident_kib(&process);
    // The server closes them, although the ends of the test are still open.
    while sockets(&process) > sockets_at_rest + 10 {
        yield_now().await;
    }
    drop(flood);
    client.create_fully_provisioned(named("afterwards")).await.unwrap();
    println!("{during} KiB during the flood, {} KiB after it", resident_kib(&process));
    assert!(during < 200 * 1024, "{during} KiB");
    process.signal(Signal::SIGTERM);
    drop(client);
    assert!(process.wait().success());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_reset_streams_is_stopped_and_memory_stays_bounded() {
    let folder = temp_folder();
    let (mut process, address, _database) = start_server(folder.path()).await;
    let mut resets = 0;
    for _ in 0..10 {
        resets += reset_streams(&address, 2_000).await;
    }
    assert!(resets > 100, "{resets}");
    let mut client = TenantProvisioningClient::new(channel(&address).await);
    client.create_fully_provisioned(bella()).await.unwrap();
    println!("{} KiB after {resets} resets", resident_kib(&process));
    assert!(resident_kib(&process) < 200 * 1024);
    process.signal(Signal::SIGTERM);
    drop(client);
    assert!(process.wait().success());
    assert!(!process.log.iter().any(|line| line.contains("panic")), "{:?}", process.log);
}
