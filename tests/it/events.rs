//! `ListEvents` and `WatchEvents`: what happened, in order, without a gap. `change_log.rs` has the event of every
//! change.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use prost_types::value::Kind;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use time::Duration;
use tokio::task::JoinSet;
use tonic::Code;
use turnkey::{
    config::ServerSettings,
    domain::{Argon2Params, KeyMode, Quotas},
    grpc::pb::{
        BatchUpsertPackagesRequest, Event, ListEventsRequest, ListTenantsRequest, PackageUpsert, UpdateTenantRequest,
        UpsertPackageRequest, WatchEventsRequest, tenant_provisioning_client::TenantProvisioningClient,
    },
    secrets::{Hasher, HashingSettings},
    service::{Clock, TenantService},
    store::Store,
};

use crate::support::{
    connect::over_connect,
    database::{Cluster, TestDatabase},
    events::{Watch, ids, types},
    faults::start_ready_behind_proxy,
    fixture::{Fixture, NewTenant, channel, settings, with_http},
    process::{Process, serve, temp_folder},
    proxy::Cut,
    requests::{gold, named, with_bearer},
    responses::{reason, violations},
    tokens::Tokens,
};

fn all() -> ListEventsRequest {
    ListEventsRequest::default()
}

async fn rename(fixture: &Fixture, tenant: &NewTenant, name: &str) {
    let request =
        UpdateTenantRequest { tenant_id: tenant.id.clone(), name: Some(name.to_owned()), ..Default::default() };
    fixture.provisioning.clone().update_tenant(request).await.unwrap();
}

fn text<'event>(event: &'event Event, key: &str) -> Option<&'event str> {
    match event.data.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The texts of an array.
fn texts(event: &Event, key: &str) -> Vec<String> {
    let Some(Kind::ListValue(list)) = &event.data.as_ref().unwrap().fields[key].kind else { panic!("no list {key}") };
    let text = |kind: &Option<Kind>| match kind {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("no text: {other:?}"),
    };
    list.values.iter().map(|value| text(&value.kind)).collect()
}

/// A transaction that has inserted an event of a tenant that does not exist and is not committed yet.
async fn open_transaction(fixture: &Fixture) -> PgConnection {
    let mut connection = fixture.database.superuser.connect().await.unwrap();
    let insert = "BEGIN; INSERT INTO events (type, time, tenant_id, caller, data)
                         VALUES ('tenant.repaired', now(), gen_random_uuid(), 'late', '{}')";
    sqlx::raw_sql(insert).execute(&mut connection).await.unwrap();
    connection
}

/// Runs the server's periodic maintenance.
async fn delete_expired_events(fixture: &Fixture) {
    let hashing = HashingSettings { key: Argon2Params::KEY, password: Argon2Params::KEY, workers: 1, queue_length: 1 };
    let store = Store::new(fixture.database.server.clone().into(), 1);
    let hasher = Hasher::new(hashing).unwrap();
    let service = TenantService::new(store, hasher, KeyMode::Live, Clock::system(), Quotas::DEFAULT);
    service.delete_expired_events().await.unwrap();
}

async fn commit(mut connection: PgConnection) {
    sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn an_event_has_the_ids_the_names_of_changed_fields_and_the_values_of_short_ones() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let update = UpdateTenantRequest {
        tenant_id: tenant.id.clone(),
        name: Some("Bea".to_owned()),
        branding: Some(prost_types::Struct { fields: [("color".to_owned(), Kind::BoolValue(true).into())].into() }),
        ..UpdateTenantRequest::default()
    };
    fixture.provisioning.clone().update_tenant(update).await.unwrap();
    let description = Some("A long text".to_owned());
    let package =
        UpsertPackageRequest { description, package_id: Some(tenant.package_ids[0].clone()), ..gold(&tenant) };
    fixture.upsert_package(package).await.unwrap();

    let events = fixture.events().await;
    assert_eq!(types(&events), ["tenant.created", "tenant.updated", "package.updated"]);
    for event in &events {
        assert_eq!((event.tenant_id.as_str(), event.caller.as_str()), (tenant.id.as_str(), "anonymous"));
        assert_eq!(event.trace_id.len(), 32);
    }
    let [created, updated, package] = &events[..] else { panic!("three events") };
    assert_eq!((text(created, "slug"), text(created, "public_key")), (Some("bella"), Some(&*tenant.public_key)));
    assert_eq!(text(created, "segment_id"), Some(&*tenant.general_id));
    assert_eq!(texts(created, "package_ids"), tenant.package_ids);
    assert_eq!(
        (texts(updated, "fields"), text(updated, "name")),
        (vec!["branding".into(), "name".into()], Some("Bea"))
    );
    assert!(!updated.data.as_ref().unwrap().fields.contains_key("branding"));
    assert_eq!(text(package, "package_id"), Some(&*tenant.package_ids[0]));
    assert_eq!(texts(package, "fields"), ["base_price", "description", "name"]);
    assert!(!package.data.as_ref().unwrap().fields.contains_key("description"));
}

#[tokio::test]
async fn the_items_of_a_batch_have_an_event_each_in_their_order() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    let item = |slug: &str, price| PackageUpsert {
        slug: Some(slug.to_owned()),
        name: Some(slug.to_owned()),
        base_price: Some(price),
        ..PackageUpsert::default()
    };
    let packages = vec![item("zoo", 1), item("basic-package", 7), item("abc", 2)];
    let batch = BatchUpsertPackagesRequest { tenant_id: tenant.id.clone(), packages };
    for _ in 0..2 {
        fixture.catalog.clone().batch_upsert_packages(batch.clone()).await.unwrap();
    }
    let events = fixture.events().await;
    assert_eq!(types(&events), ["tenant.created", "package.created", "package.updated", "package.created"]);
    assert_eq!((text(&events[1], "slug"), text(&events[3], "slug")), (Some("zoo"), Some("abc")));
}

#[tokio::test]
async fn events_are_listed_oldest_first_by_tenant_type_and_time_on_pages_of_any_size() {
    let fixture = Fixture::start().await;
    let (bella, omer) = (fixture.tenant("bella").await, fixture.tenant("omer").await);
    for number in 0..3 {
        rename(&fixture, &bella, &format!("Bella {number}")).await;
        rename(&fixture, &omer, &format!("Omer {number}")).await;
    }
    fixture.advance_clock(Duration::hours(3));
    fixture.delete_tenant(&omer.id).await.unwrap();
    let everything = fixture.events().await;
    assert_eq!(everything.len(), 9);
    assert!(ids(&everything).is_sorted());
    for page_size in [1, 2, 9, 10] {
        assert_eq!(fixture.all_events(ListEventsRequest { page_size, ..all() }).await, everything);
    }
    let matching = |matches: &dyn Fn(&Event) -> bool| {
        everything.iter().filter(|event| matches(event)).cloned().collect::<Vec<_>>()
    };
    let of_bella = ListEventsRequest { tenant_id: Some(bella.id.clone()), page_size: 2, ..all() };
    assert_eq!(fixture.all_events(of_bella.clone()).await, matching(&|event| event.tenant_id == bella.id));
    let updates = ListEventsRequest { types: vec!["tenant.updated".to_owned()], page_size: 2, ..all() };
    assert_eq!(fixture.all_events(updates).await, matching(&|event| event.r#type == "tenant.updated"));
    let deleted_at = everything[8].time;
    assert_eq!(fixture.all_events(ListEventsRequest { after: deleted_at, ..all() }).await, everything[8..]);
    assert_eq!(fixture.all_events(ListEventsRequest { before: deleted_at, ..all() }).await, everything[..8]);

    let token = fixture.list_events(of_bella).await.unwrap().next_page_token;
    let of_another = ListEventsRequest { tenant_id: Some(omer.id), page_token: token, ..all() };
    let error = fixture.list_events(of_another).await.unwrap_err();
    assert_eq!(violations(&error), [("page_token".to_owned(), "BAD_FORMAT".to_owned())]);
    let error = fixture.list_events(ListEventsRequest { types: vec!["tenant.sold".to_owned()], ..all() }).await;
    assert_eq!(violations(&error.unwrap_err()), [("types".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_commits_late_is_neither_skipped_nor_overtaken() {
    let fixture = Fixture::start().await;
    let replica = Fixture::start_on(fixture.database.clone()).await;
    let mut watches = [fixture.watch_from_now().await, replica.watch_from_now().await];
    let late = open_transaction(&fixture).await;
    fixture.tenant("bella").await;
    assert_eq!(fixture.all_events(all()).await, [], "an older transaction is open");
    let last = open_transaction(&fixture).await;
    commit(late).await;
    let mut seen = Vec::new();
    for watch in &mut watches {
        seen.push(watch.next_events(2).await);
    }
    assert_eq!(types(&seen[0]), ["tenant.repaired", "tenant.created"]);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(fixture.all_events(all()).await, seen[0]);
    commit(last).await;
    for watch in &mut watches {
        assert_eq!(watch.next_event().await.unwrap().caller, "late");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_tenant_are_in_the_order_of_its_concurrent_changes() {
    let fixture = Fixture::start().await;
    let tenant = fixture.tenant("bella").await;
    // Else the stream may begin with the event of the creation.
    fixture.wait_for_older_transactions().await;
    let mut watch = fixture.watch_from_now().await;
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let (mut client, tenant_id) = (fixture.provisioning.clone(), tenant.id.clone());
        callers.spawn(async move {
            for number in 0..20 {
                let name = Some(format!("{caller}-{number}"));
                let update = UpdateTenantRequest { tenant_id: tenant_id.clone(), name, ..Default::default() };
                client.update_tenant(update).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let events = watch.next_events(160).await;
    let names: BTreeSet<&str> = events.iter().map(|event| text(event, "name").unwrap()).collect();
    assert_eq!(names.len(), 160, "each change has one event");
    let current: String =
        sqlx::query_scalar("SELECT name FROM tenants").fetch_one(&fixture.superuser_pool().await).await.unwrap();
    assert_eq!(text(&events[159], "name"), Some(current.as_str()));
    for caller in 0..8 {
        let of_caller = events.iter().filter_map(|event| text(event, "name")?.strip_prefix(&format!("{caller}-")));
        assert!(of_caller.map(|number| number.parse::<u32>().unwrap()).is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_continues_at_any_cursor_and_at_the_id_of_any_event() {
    let fixture = Fixture::start().await;
    let mut watch = fixture.watch_from_now().await;
    let start = watch.cursor.clone();
    let tenant = fixture.tenant("bella").await;
    for number in 0..600 {
        rename(&fixture, &tenant, &format!("Bella {number}")).await;
    }
    let events = watch.next_events(601).await;
    assert!(ids(&events).is_sorted());
    assert_eq!(fixture.watch_from(&start).await.next_events(601).await, events);
    assert_eq!(fixture.watch_from(&events[299].id).await.next_events(301).await, events[300..]);
    // Another server shares none of them with its watchers, and reads them in pages.
    let replica = Fixture::start_on(fixture.database.clone()).await;
    assert_eq!(replica.watch_from(&start).await.next_events(601).await, events);
    let only = WatchEventsRequest { cursor: start, types: vec!["tenant.created".to_owned()], ..Default::default() };
    let mut created = fixture.watch(only).await;
    assert_eq!(created.next_event().await.unwrap(), events[0]);
    // A checkpoint is after all events that the filter leaves out, too.
    let mut cursor = created.checkpoint().await;
    while cursor < events[600].id {
        cursor = created.checkpoint().await;
    }
    let request = WatchEventsRequest { cursor: "x".to_owned(), ..WatchEventsRequest::default() };
    let error = fixture.provisioning.clone().watch_events(request).await.unwrap_err();
    assert_eq!(violations(&error), [("cursor".to_owned(), "BAD_FORMAT".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_survives_a_lost_connection_and_none_begins_without_a_database() {
    let (fixture, proxy) = start_ready_behind_proxy().await;
    let mut watch = fixture.watch_from_now().await;
    // A part of the statement that reads events.
    proxy.inject("is_expired", Cut::BeforeStatement);
    fixture.tenant("bella").await;
    assert_eq!(watch.next_event().await.unwrap().r#type, "tenant.created");
    assert!(proxy.was_triggered());

    let without_database = Fixture::start_with(TestDatabase::unreachable(), settings()).await;
    let error = without_database.watch_error("").await;
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_are_listed_and_then_watched_miss_no_change() {
    let fixture = Fixture::start().await;
    fixture.tenant("bella").await;
    let late = open_transaction(&fixture).await;
    fixture.tenant("omer").await;
    let first = ListTenantsRequest { page_size: 1, ..ListTenantsRequest::default() };
    let first = fixture.provisioning.clone().list_tenants(first).await.unwrap().into_inner();
    assert_ne!(first.cursor, "");
    let next = ListTenantsRequest { page_size: 1, page_token: first.next_page_token, ..Default::default() };
    let next = fixture.provisioning.clone().list_tenants(next).await.unwrap().into_inner();
    assert_eq!(next.cursor, "", "only the first page has a cursor");
    commit(late).await;
    let events = fixture.watch_from(&first.cursor).await.next_events(2).await;
    assert_eq!(types(&events), ["tenant.repaired", "tenant.created"]);
    assert_eq!(text(&events[1], "slug"), Some("omer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_watchers_need_one_connection_and_each_receives_every_event() {
    let fixture = Fixture::with_settings(ServerSettings { database_max_connections: 2, ..settings() }).await;
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(fixture.watch_from_now().await);
    }
    fixture.tenant("bella").await;
    fixture.tenant("omer").await;
    for watch in &mut watches {
        assert_eq!(types(&watch.next_events(2).await), ["tenant.created", "tenant.created"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_events_are_deleted_and_a_cursor_before_them_has_expired() {
    let fixture = Fixture::start().await;
    let start = fixture.watch_from_now().await.cursor;
    let tenant = fixture.tenant("bella").await;
    let before = fixture.events().await[0].id.clone();
    fixture.database.execute("UPDATE events SET time = time - interval '31 days'").await;
    fixture.delete_tenant(&tenant.id).await.unwrap();
    delete_expired_events(&fixture).await;
    assert_eq!(types(&fixture.events().await), ["tenant.deleted"]);
    let error = fixture.watch_error(&start).await;
    assert_eq!((error.code(), reason(&error).as_str()), (Code::OutOfRange, "CURSOR_EXPIRED"));
    assert_eq!(fixture.watch_from(&before).await.next_event().await.unwrap().r#type, "tenant.deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_old_events_stay_readable_and_old_cursors_have_expired() {
    let database = Cluster::get().empty().await;
    database.migrate().await;
    let fixture = Fixture::start_on(database).await;
    fixture.tenant("bella").await;
    let cursor = fixture.events().await[0].id.clone();
    // As a dump from a cluster with more transactions, restored in this one.
    fixture.database.execute("UPDATE events SET xid = (xid::text::int8 + 1000000)::text::xid8").await;
    let ahead = fixture.watch_from(&cursor).await.checkpoint().await;
    assert_eq!(ahead, cursor, "nothing is new");
    fixture.database.migrate().await;
    fixture.tenant("omer").await;
    let events = fixture.events().await;
    assert_eq!((text(&events[0], "slug"), text(&events[1], "slug")), (Some("bella"), Some("omer")));
    assert!(ids(&events).is_sorted());
    for old in [&cursor, &events[0].id] {
        let error = fixture.watch_error(old).await;
        assert_eq!((error.code(), reason(&error).as_str()), (Code::OutOfRange, "CURSOR_EXPIRED"));
    }
    let histories = fixture.count("event_histories").await;
    fixture.database.migrate().await;
    assert_eq!(fixture.count("event_histories").await, histories, "no other history begins");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_whose_event_was_lost_in_a_failover_has_expired() {
    let fixture = Fixture::start().await;
    let cursor = fixture.watch_from_now().await.cursor;
    // The history is the same, and the transaction is none of this database.
    let lost = format!("{}{:016x}{:016x}", &cursor[..12], 1_u64 << 40, 1);
    let error = fixture.watch_error(&lost).await;
    assert_eq!((error.code(), reason(&error).as_str()), (Code::OutOfRange, "CURSOR_EXPIRED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_sends_a_checkpoint_and_ends_its_streams_as_unavailable() {
    let database = Cluster::get().migrated().await;
    let fixture = Fixture::start_on(database.clone()).await;
    let folder = temp_folder();
    let mut process = Process::start(&mut serve(folder.path(), &database.server));
    let mut client = TenantProvisioningClient::new(channel(&process.address()).await);
    let mut watch = Watch::new(client.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner());
    watch.checkpoint().await;
    fixture.tenant("bella").await;
    assert_eq!(watch.next_event().await.unwrap().r#type, "tenant.created");
    process.signal(Signal::SIGTERM);
    let error = watch.end().await;
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "CONNECTION_CLOSING"));
    assert!(tokio::task::spawn_blocking(move || process.wait()).await.unwrap().success());
    let last = &fixture.events().await[0].id;
    assert_eq!(&watch.cursor, last, "the last checkpoint is after the last event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_maximum_age_ends_its_streams_by_grpc_and_by_http() {
    let max_connection_age = std::time::Duration::from_millis(300);
    let fixture = Fixture::with_settings(ServerSettings { max_connection_age, ..with_http(settings()) }).await;
    let grpc = fixture.watch_from("").await;
    let mut over_http = TenantProvisioningClient::new(over_connect(fixture.http()));
    let http = Watch::new(over_http.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner());
    for mut watch in [grpc, http] {
        let error = watch.end().await;
        assert_eq!((error.code(), reason(&error).as_str()), (Code::Unavailable, "CONNECTION_CLOSING"));
        assert!(!watch.cursor.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_auditor_sees_its_tenants_alone_until_its_token_is_removed() {
    let open = Fixture::start().await;
    let (own, other) = (open.tenant("bella").await, open.tenant("omer").await);
    let tokens = Tokens::new();
    let token = tokens.create_with("audit", &["auditor"], &["--tenant", &own.id]);
    let closed = Fixture::start_with(open.database.clone(), tokens.settings()).await;
    let list = async |tenant_id: Option<&str>| {
        let request = ListEventsRequest { tenant_id: tenant_id.map(str::to_owned), ..all() };
        let request = with_bearer(request, Some(&token));
        closed.provisioning.clone().list_events(request).await.map(tonic::Response::into_inner)
    };
    open.wait_for_older_transactions().await;
    let listed = list(None).await.unwrap().events;
    assert_eq!((types(&listed), &listed[0].tenant_id), (vec!["tenant.created"], &own.id));
    assert_eq!(list(Some(&own.id)).await.unwrap().events, listed);
    assert_eq!(list(Some(&other.id)).await.unwrap_err().code(), Code::PermissionDenied);

    let request = with_bearer(WatchEventsRequest::default(), Some(&token));
    let mut watch = Watch::new(closed.provisioning.clone().watch_events(request).await.unwrap().into_inner());
    watch.checkpoint().await;
    rename(&open, &other, "Other").await;
    rename(&open, &own, "Own").await;
    assert_eq!(text(&watch.next_event().await.unwrap(), "name"), Some("Own"));
    std::fs::write(tokens.file(), "").unwrap();
    let error = watch.end().await;
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_survives_kills_of_its_server_without_a_gap_or_a_repetition() {
    let fixture = Fixture::start().await;
    let mut cursor = fixture.watch_from_now().await.cursor;
    let folder = temp_folder();
    let mut seen = Vec::new();
    for round in 0..3 {
        let mut process = Process::start(&mut serve(folder.path(), &fixture.database.server));
        let mut client = TenantProvisioningClient::new(channel(&process.address()).await);
        let request = WatchEventsRequest { cursor: cursor.clone(), ..WatchEventsRequest::default() };
        let mut watch = Watch::new(client.watch_events(request).await.unwrap().into_inner());
        for number in 0..5 {
            client.create_fully_provisioned(named(&format!("t-{round}-{number}"))).await.unwrap();
            let event = watch.next_event().await.unwrap();
            cursor.clone_from(&event.id);
            seen.push(event);
        }
        process.signal(Signal::SIGKILL);
        watch.end().await;
        process.wait();
        fixture.tenant(&format!("meanwhile-{round}")).await;
    }
    seen.extend(fixture.watch_from(&cursor).await.next_events(3 * 6 - seen.len()).await);
    assert_eq!(seen, fixture.events().await);
}

#[tokio::test]
async fn a_catalog_transaction_can_insert_events_of_its_own_tenant_only_and_read_none() {
    let fixture = Fixture::start().await;
    let (own, other) = (fixture.tenant("bella").await, fixture.tenant("omer").await);
    let mut connection = fixture.database.server.connect().await.unwrap();
    for (sql, succeeds) in [
        (insert_for(&own), true),
        (insert_for(&other), false),
        ("SELECT type FROM events".to_owned(), false),
        ("DELETE FROM events".to_owned(), false),
        ("UPDATE events SET type = 'x'".to_owned(), false),
    ] {
        let role = format!("BEGIN; SET LOCAL ROLE turnkey_catalog; SET LOCAL turnkey.tenant_id = '{}';", own.id);
        let result = sqlx::raw_sql(AssertSqlSafe(format!("{role} {sql}"))).execute(&mut connection).await;
        assert_eq!(result.is_ok(), succeeds, "{sql}: {result:?}");
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    }
}

fn insert_for(tenant: &NewTenant) -> String {
    let columns = "type, time, tenant_id, caller, trace_id, data";
    format!("INSERT INTO events ({columns}) VALUES ('x', now(), '{}', 'x', NULL, '{{}}')", tenant.id)
}
