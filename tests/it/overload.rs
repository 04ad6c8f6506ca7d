//! Floods, accidental or malicious: the excess is rejected, memory stays bounded, and other clients are served.

use std::{
    collections::HashSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::sys::signal::Signal;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    task::{JoinSet, yield_now},
};
use tonic::{Code, transport::Channel};
use turnkey::{
    config::ServerSettings,
    grpc::pb::{
        BatchUpsertPackagesRequest, GetTenantRequest, ListPackagesRequest, ListTenantsRequest, PackageUpsert, Verdict,
        VerifyApiKeyRequest, get_tenant_request::Identifier, package_catalog_client::PackageCatalogClient,
        tenant_provisioning_client::TenantProvisioningClient,
    },
};

use crate::support::{
    database::Cluster,
    faults::start_server,
    fixture::{Fixture, channel, settings},
    http2::reset_streams,
    process::{Process, raise_open_files_limit, serve, temp_folder},
    process_memory::memory_kib,
    requests::{bella, gold, named, rotation, signup, unknown_secret_key, with_bearer},
    responses::reason,
    tokens::Tokens,
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

#[tokio::test(flavor = "multi_thread")]
async fn made_up_keys_that_wait_for_the_database_do_not_use_up_the_concurrent_calls() {
    let tokens = Tokens::new();
    let token = tokens.create("booking", &["catalog"]);
    // More than may wait, and fewer than the flood has.
    let settings = ServerSettings { max_concurrent_calls: 280, ..tokens.settings() };
    let fixture = Fixture::with_settings(settings).await;
    let superuser = fixture.superuser_pool().await;
    let mut holder = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE api_keys").execute(&mut *holder).await.unwrap();
    let mut flood = JoinSet::new();
    for _ in 0..2 {
        let catalog = PackageCatalogClient::new(channel(&fixture.server.address.to_string()).await);
        for _ in 0..200 {
            let (mut catalog, key) = (catalog.clone(), unknown_secret_key("pk_live_bella_0123456789abcdef"));
            flood.spawn(async move {
                catalog.list_packages(with_bearer(ListPackagesRequest::default(), Some(&key))).await.unwrap_err()
            });
        }
    }
    assert_eq!(reason(&flood.join_next().await.unwrap().unwrap()), "OVERLOADED", "the first are refused at once");
    let request = ListPackagesRequest { tenant_id: uuid::Uuid::new_v4().to_string(), ..Default::default() };
    let error = fixture.catalog.clone().list_packages(with_bearer(request, Some(&token))).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "the call of a service is served");
    holder.rollback().await.unwrap();
    flood.shutdown().await;
}

/// The keys have right checksums, so each costs a lookup and a hash unless it is refused before.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_made_up_keys_crowds_out_neither_services_nor_tenants_that_are_known() {
    let tokens = Tokens::new();
    let (provisioner, verifier) =
        (tokens.create("admin-ui", &["provisioner"]), tokens.create("gateway", &["verifier"]));
    let database = Cluster::get().migrated().await;
    let bella = Fixture::start_on(database.clone()).await.tenant("bella").await;
    // Fewer calls than the flood has.
    let settings = ServerSettings { max_concurrent_calls: 320, ..tokens.settings() };
    let fixture = Fixture::start_with(database, settings).await;
    let list = async |catalog: &PackageCatalogClient<Channel>, key: &str| {
        let request = ListPackagesRequest { tenant_id: bella.id.clone(), ..Default::default() };
        catalog.clone().list_packages(with_bearer(request, Some(key))).await.map(drop)
    };
    list(&fixture.catalog, &bella.secret_key).await.unwrap();

    let (mut flood, refused) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..2 {
        let catalog = PackageCatalogClient::new(channel(&fixture.server.address.to_string()).await);
        for _ in 0..256 {
            let (mut catalog, refused, public_key) = (catalog.clone(), Arc::clone(&refused), bella.public_key.clone());
            flood.spawn(async move {
                loop {
                    let key = unknown_secret_key(&public_key);
                    let request = with_bearer(ListPackagesRequest::default(), Some(&key));
                    let error = catalog.list_packages(request).await.unwrap_err();
                    match error.code() {
                        Code::Unauthenticated => {}
                        Code::ResourceExhausted => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        other => panic!("{other}"),
                    }
                }
            });
        }
    }
    while refused.load(Ordering::Relaxed) == 0 {
        yield_now().await;
    }
    for _ in 0..10 {
        let get = GetTenantRequest { identifier: Some(Identifier::TenantId(bella.id.clone())) };
        let verify = VerifyApiKeyRequest { secret_key: bella.secret_key.clone() };
        let (mut service, mut gateway) = (fixture.provisioning.clone(), fixture.provisioning.clone());
        let (found, verdict, listed) = tokio::join!(
            service.get_tenant(with_bearer(get, Some(&provisioner))),
            gateway.verify_api_key(with_bearer(verify, Some(&verifier))),
            list(&fixture.catalog, &bella.secret_key),
        );
        found.unwrap();
        assert_eq!(verdict.unwrap().into_inner().verdict(), Verdict::Valid);
        listed.unwrap();
    }
    flood.shutdown().await;
}

#[tokio::test]
async fn a_hundred_batches_of_one_tenant_leave_connections_for_other_tenants() {
    let fixture = Fixture::with_settings(ServerSettings { database_max_connections: 4, ..settings() }).await;
    let (busy, other) = (fixture.tenant("busy").await, fixture.tenant("other").await);
    // Holds the lock of the busy tenant, as a slow change would.
    let mut holder = fixture.superuser_pool().await.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(('x' || right(replace($1, '-', ''), 16))::bit(64)::int8)")
        .bind(&busy.id)
        .execute(&mut *holder)
        .await
        .unwrap();
    let package = PackageUpsert { name: Some("Gold".to_owned()), base_price: Some(1), ..Default::default() };
    let batch = BatchUpsertPackagesRequest { tenant_id: busy.id, packages: vec![package; 5] };
    let mut batches = JoinSet::new();
    for _ in 0..100 {
        let (mut client, batch) = (fixture.catalog.clone(), batch.clone());
        batches.spawn(async move { client.batch_upsert_packages(batch).await });
    }
    while fixture.count("pg_locks WHERE NOT granted").await < 2 {}

    for _ in 0..10 {
        fixture.upsert_package(gold(&other)).await.unwrap();
        fixture.package(&other, &other.package_ids[0]).await.unwrap();
        fixture.get(Identifier::TenantId(other.id.clone())).await.unwrap();
        fixture.try_rotate(rotation(&other.id, None)).await.unwrap();
    }
    holder.rollback().await.unwrap();
    while let Some(response) = batches.join_next().await {
        if let Err(error) = response.unwrap() {
            // A batch waits for its turn, and then for the lock, for two seconds each.
            assert!(["OVERLOADED", "DATABASE_UNAVAILABLE"].contains(&reason(&error).as_str()), "{error:?}");
        }
    }
    fixture.upsert_package(gold(&other)).await.unwrap();
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
async fn a_flood_of_sign_ups_is_refused_beyond_the_queue_and_memory_stays_bounded() {
    let (folder, database) = (temp_folder(), Cluster::get().migrated().await);
    // Each hash takes 19 MiB.
    let mut process = Process::start(serve(folder.path(), &database.server).env("TURNKEY_HASHING_WORKERS", "2"));
    let address = process.address();
    let mut client = TenantProvisioningClient::new(channel(&address).await);
    let tenant_id = client.create_fully_provisioned(bella()).await.unwrap().into_inner().tenant.unwrap().id;
    let mut flood = JoinSet::new();
    // More than twice as many as may be hashed or wait for it.
    for number in 0..200 {
        let mut client = client.clone();
        let sign_up = signup("Flood", &format!("flood-{number}@example.com"));
        flood.spawn(async move { client.create_from_signup(sign_up).await.map(drop).map_err(|error| reason(&error)) });
    }
    let mut catalog = PackageCatalogClient::new(channel(&address).await);
    let list = ListPackagesRequest { tenant_id, ..ListPackagesRequest::default() };
    let (mut created, mut refused) = (0, 0);
    while let Some(result) = flood.join_next().await {
        assert_eq!(catalog.list_packages(list.clone()).await.unwrap().into_inner().packages.len(), 3);
        match result.unwrap() {
            Ok(()) => created += 1,
            Err(reason) => {
                assert_eq!(reason, "OVERLOADED");
                refused += 1;
            }
        }
    }
    assert!(created > 0 && refused > 0, "{created} created, {refused} refused");
    let peak_kib = memory_kib(process.pid(), "VmHWM").unwrap();
    println!("{peak_kib} KiB during the flood: {created} created, {refused} refused");
    assert!(peak_kib < 200 * 1024, "{peak_kib} KiB");
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

/// The message of each of these brandings takes a megabyte in memory. The service would not accept them.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_tenants_whose_brandings_have_many_values_takes_little_memory() {
    let folder = temp_folder();
    let (process, address, database) = start_server(folder.path()).await;
    let many = "INSERT INTO tenants
                SELECT gen_random_uuid(), 'tenant-' || number, 'x', 10, branding, true, now(), now()
                  FROM generate_series(1, 500) AS number,
                       (SELECT jsonb_build_object('zeros', jsonb_agg(0)) AS branding FROM generate_series(1, 32000)) AS one";
    database.execute_without_triggers(many).await;
    let mut client = TenantProvisioningClient::new(channel(&address).await);
    let mut request = ListTenantsRequest { page_size: 500, ..ListTenantsRequest::default() };
    let before = resident_kib(&process);
    let mut listed = Vec::new();
    for _ in 0..5 {
        let page = client.list_tenants(request.clone()).await.unwrap().into_inner();
        assert!(!page.tenants.is_empty() && !page.next_page_token.is_empty());
        listed.extend(page.tenants.into_iter().map(|tenant| tenant.id));
        request.page_token = page.next_page_token;
    }
    let growth = memory_kib(process.pid(), "VmHWM").unwrap() - before;
    println!("{growth} KiB for 5 pages of {} tenants", listed.len());
    assert!(growth < 24 * 1024, "{growth} KiB");
    assert_eq!(listed.iter().collect::<HashSet<_>>().len(), listed.len());
}
