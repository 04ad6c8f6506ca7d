//! A history checker over the changing RPCs: clients change tenants, keys and catalogs over gRPC and HTTP while servers
//! are killed, connections are cut and Postgres stops or fails over. They record each call and its response.
//! Afterwards, an order of the calls must explain every response, the final reads included, and the events must be the
//! changes of that order: each acknowledged change is there, nothing twice. `ListEvents` and two watchers must have
//! seen the same events.

mod checker;
mod clients;
mod events;
mod history;
mod model;
mod search;
mod world;

use std::{
    collections::BTreeSet,
    ops::Add,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{StreamExt as _, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet};
use turnkey::grpc::pb::ListEventsRequest;

use self::{
    clients::{Client, Common, Servers, Tokens, new_request_id},
    events::Changes,
    history::{History, Outcome},
    model::Origin,
    search::check,
    world::{Fault, Progress, Watcher, World},
};

/// Tenants that are changed at a time, and the clients of each.
const GROUPS: u64 = 4;
const CLIENTS: u64 = 3;
/// Calls of a client for one tenant.
const CALLS: u32 = 14;

/// What was checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    pub tenants: usize,
    pub operations: usize,
    /// Changes whose response was lost.
    pub unknown: usize,
    pub events: usize,
}

impl Add for Report {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            tenants: self.tenants + other.tenants,
            operations: self.operations + other.operations,
            unknown: self.unknown + other.unknown,
            events: self.events + other.events,
        }
    }
}

/// A tenant whose history is recorded.
struct Subject {
    origin: Origin,
    history: History,
    /// One client for each tenant that was created, which knows its keys. There are several if a purge was in between.
    clients: Vec<Client>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_order_of_the_changes_explains_every_response_when_servers_and_postgres_stop() {
    let seed = rand::random();
    let report = kill_cut_and_stop(5, seed).await;
    assert!(report.unknown > 0, "{report:?} with seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_order_of_the_changes_explains_every_response_when_the_primary_is_lost() {
    let seed = rand::random();
    let report = lose_primary(2, seed).await;
    assert!(report.tenants > 0, "{report:?} with seed {seed}");
}

/// Servers are killed, connections are cut and closed, and Postgres stops, in turn and this many times in all.
pub async fn kill_cut_and_stop(faults: usize, seed: u64) -> Report {
    let kinds =
        [Fault::KillServer, Fault::CutConnection, Fault::StopPostgres, Fault::CutConnection, Fault::CloseConnections];
    let faults: Vec<Fault> = kinds.iter().copied().cycle().take(faults).collect();
    run(World::with_single_postgres().await, &faults, seed).await
}

/// The primary is lost between faults of the connections and the servers.
pub async fn lose_primary(others: usize, seed: u64) -> Report {
    let mut faults: Vec<Fault> =
        [Fault::CutConnection, Fault::KillServer].iter().copied().cycle().take(others).collect();
    faults.insert(others.div_ceil(2), Fault::LosePrimary);
    run(World::with_standby().await, &faults, seed).await
}

async fn run(mut world: World, faults: &[Fault], seed: u64) -> Report {
    println!("seed {seed}");
    let watchers =
        [Watcher::start(world.servers.clone(), seed).await, Watcher::start(world.servers.clone(), !seed).await];
    let (on_call, mut progress) = Progress::new();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut groups = JoinSet::new();
    for group in 0..GROUPS {
        let (servers, on_call, is_over) = (world.servers.clone(), on_call.clone(), Arc::clone(&is_over));
        let random = StdRng::seed_from_u64(seed.wrapping_add(group));
        groups.spawn(change_tenants(group, random, servers, on_call, is_over));
    }
    let mut random = StdRng::seed_from_u64(seed);
    for &fault in faults {
        progress.wait_for(random.random_range(5..60)).await;
        world.inject(fault, &mut random, &mut progress).await;
    }
    progress.wait_for(30).await;
    is_over.store(true, Ordering::Relaxed);
    let subjects: Vec<Subject> = groups.join_all().await.into_iter().flatten().collect();
    let report = check_all(&mut world, subjects, watchers).await;
    world.stop().await;
    report
}

/// Creates one tenant after another, and has clients change it.
async fn change_tenants(
    group: u64,
    mut random: StdRng,
    servers: Servers,
    on_call: watch::Sender<u64>,
    is_over: Arc<AtomicBool>,
) -> Vec<Subject> {
    let mut subjects = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let number = subjects.len();
        let slug = format!("tenant-{group}-{number}");
        let owner = (number % 2 == 1).then(|| format!("{slug}@example.com"));
        let origin = Origin { name: format!("Tenant {group} {number}"), slug, owner };
        let common = Common {
            servers: servers.clone(),
            origin: origin.clone(),
            request_id: new_request_id(&mut random),
            history: History::default(),
            tokens: Tokens::default(),
            is_damaged_at_times: group == 0,
        };
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let mut client = Client::new(StdRng::seed_from_u64(random.random()), common.clone());
            let on_call = on_call.clone();
            clients.spawn(async move {
                client.run(CALLS, || on_call.send_modify(|count| *count += 1)).await;
                client
            });
        }
        let clients = one_for_each_tenant(clients.join_all().await);
        subjects.push(Subject { origin, history: common.history, clients });
    }
    subjects
}

fn one_for_each_tenant(clients: Vec<Client>) -> Vec<Client> {
    let mut chosen: Vec<Client> = Vec::new();
    for client in clients {
        match chosen.iter_mut().find(|chosen| chosen.tenant_id() == client.tenant_id()) {
            Some(chosen) => chosen.learn_from(&client),
            None if client.tenant_id().is_empty() => {}
            None => chosen.push(client),
        }
    }
    chosen
}

/// Reads everything from a server that sees the same database, and checks all histories.
async fn check_all(world: &mut World, mut subjects: Vec<Subject>, watchers: [Watcher; 2]) -> Report {
    let fixture = world.replace_servers().await;
    fixture.wait_for_older_transactions().await;
    let clients = subjects.iter_mut().flat_map(|subject| &mut subject.clients);
    stream::iter(clients.map(Client::read_all)).for_each_concurrent(8, |read| read).await;
    let events = fixture.all_events(ListEventsRequest { page_size: 500, ..ListEventsRequest::default() }).await;
    let changes = Changes::read(&fixture.database.superuser, &events).await;
    for watcher in watchers {
        changes.check_watched(&watcher.seen_up_to(&events.last().unwrap().id).await, &events);
    }
    let changes = changes.by_slug();
    let slugs: BTreeSet<&str> = subjects.iter().map(|subject| subject.origin.slug.as_str()).collect();
    assert!(changes.keys().map(String::as_str).eq(slugs), "other tenants were created");
    let mut report = Report { tenants: subjects.len(), events: events.len(), ..Report::default() };
    for Subject { origin, history, .. } in &subjects {
        let operations = history.operations();
        check(origin, &operations, &changes[&origin.slug])
            .unwrap_or_else(|violation| panic!("{}: {violation:?}", origin.slug));
        report.operations += operations.len();
        report.unknown += operations.iter().filter(|operation| operation.outcome == Outcome::Unknown).count();
    }
    println!("{report:?}");
    report
}
