//! What each step does to the state.

use super::{Answer, Client, Item, MAX_ATTEMPTS, Progress, Response, Scenario, Server, State, Statement};
use crate::{
    database::{AttemptId, Insertion, Lookup, Rpc, Time},
    rules::Rule,
};

impl State {
    /// Whether the calls in progress began at this time. A call takes seconds: the clock passes at most one limit
    /// while it runs.
    pub(super) fn has_only_calls_of(&self, time: Time) -> bool {
        let waiting = self.servers.iter().flat_map(|server| server.waiting.iter().chain(&server.alone));
        let looking = self.servers.iter().flat_map(|server| server.looking.iter().map(|(item, _)| item));
        let running = self.statements.iter().flat_map(|statement| &statement.items);
        waiting.chain(looking).chain(running).all(|item| item.created_at == time)
    }

    pub(super) fn send(&mut self, scenario: &Scenario, client: usize, server: usize, now: Time) {
        let (number, client) = (client, &mut self.clients[client]);
        // Small numbers.
        let attempt = u8::try_from(number).unwrap_or_default() * MAX_ATTEMPTS + client.attempts;
        client.attempts += 1;
        client.waits = Some((attempt, server));
        let request = scenario.calls[number][client.call];
        let item = Item { client: number, attempt, request, created_at: now };
        match request.rpc {
            Rpc::CreateFullyProvisioned => self.servers[server].waiting.push(item),
            Rpc::CreateApiKey => self.servers[server].alone.push(item),
        }
    }

    pub(super) fn begin_shared(&mut self, server: usize) {
        let mut taken: Vec<Item> = Vec::new();
        let has_key_in = |item: &Item, taken: &[Item]| {
            let scope = |item: &Item| item.request.id.map(|request_id| (item.request.caller, request_id));
            let is_alike = |other: &Item| {
                other.request.slug == item.request.slug || scope(other).is_some() && scope(other) == scope(item)
            };
            taken.iter().any(is_alike)
        };
        for item in std::mem::take(&mut self.servers[server].waiting) {
            if has_key_in(&item, &taken) {
                self.servers[server].waiting.push(item);
            } else {
                taken.push(item);
            }
        }
        self.begin(server, taken);
    }

    pub(super) fn begin(&mut self, server: usize, items: Vec<Item>) {
        let snapshot = self.database.clone();
        self.statements.push(Statement { server: Some(server), items, snapshot, progress: Progress::Begun });
    }

    /// Writes and commits, or rolls back.
    pub(super) fn advance(&mut self, number: usize, now: Time, omitted: Option<Rule>) {
        let (statement, database) = (&mut self.statements[number], &mut self.database);
        let Statement { items, snapshot, progress, server } = statement;
        *progress = match progress {
            Progress::Begun if omitted == Some(Rule::RecordIsCommittedWithTenant) => Progress::RecordsCommitted(
                items.iter().map(|item| database.insert_record(item, snapshot, omitted)).collect(),
            ),
            Progress::Begun => Progress::Ended(database.insert(items, snapshot, now, omitted)),
            Progress::RecordsCommitted(insertions) => {
                for (item, insertion) in items.iter().zip(insertions.iter_mut()) {
                    if *insertion == Insertion::Created && !database.insert_tenant(item, now) {
                        *insertion = Insertion::Exists;
                    }
                }
                Progress::Ended(Some(insertions.clone()))
            }
            Progress::Ended(_) => return,
        };
        if server.is_none() {
            self.has_outlived_its_server = true;
            if matches!(self.statements[number].progress, Progress::Ended(_)) {
                self.statements.remove(number);
            }
        }
    }

    pub(super) fn reply(&mut self, number: usize, now: Time, omitted: Option<Rule>) {
        let Statement { server, items, snapshot, progress } = self.statements.remove(number);
        let (Some(server), Progress::Ended(insertions)) = (server, progress) else { return };
        let Some(insertions) = insertions else {
            if items.len() == 1 {
                // Conflict: the call is tried again.
                self.servers[server].waiting.extend(items);
            } else if omitted == Some(Rule::RolledBackIsTriedAlone) {
                for item in &items {
                    self.respond(item, Response::AlreadyExists, now);
                }
            } else {
                self.has_split_a_statement = true;
                self.servers[server].alone.extend(items);
            }
            return;
        };
        for (item, insertion) in items.iter().zip(insertions) {
            match insertion {
                Insertion::Created => {
                    let secret = Some(item.request.secret(item.attempt));
                    let id = item.attempt;
                    let response = Response::Ok { id, secret, replayed: false, age: 0, key_has_ended: false };
                    self.respond(item, response, now);
                }
                Insertion::Exists if item.request.id.is_none() => {
                    self.respond(item, Response::AlreadyExists, now);
                }
                Insertion::Exists => {
                    let snapshot = (omitted == Some(Rule::RecordIsReadAfterwards)).then(|| snapshot.clone());
                    self.servers[server].looking.push((*item, snapshot));
                }
            }
        }
    }

    pub(super) fn look_up(&mut self, server: usize, now: Time, omitted: Option<Rule>) {
        let (item, snapshot) = self.servers[server].looking.remove(0);
        let response = match snapshot.as_ref().unwrap_or(&self.database).look_up(&item, now, omitted) {
            Lookup::NoRecord => Response::AlreadyExists,
            Lookup::OtherPayload => Response::RequestIdReused,
            Lookup::Replay { id, secret, age, key_has_ended } => {
                let replayed = omitted != Some(Rule::ReplayIsMarked);
                Response::Ok { id, secret, replayed, age, key_has_ended }
            }
        };
        self.respond(&item, response, now);
    }

    fn respond(&mut self, item: &Item, response: Response, at: Time) {
        let client = &mut self.clients[item.client];
        if client.waits.is_some_and(|(attempt, _)| attempt == item.attempt) {
            client.waits = None;
            let Item { request, attempt, created_at: from, .. } = *item;
            client.answers.push(Answer { request, attempt, response, from, at });
            if !matches!(response, Response::Ok { .. }) {
                client.call += 1;
            }
        }
    }

    pub(super) fn crash(&mut self, server: usize) {
        self.crashes += 1;
        self.servers[server] = Server::default();
        for statement in &mut self.statements {
            statement.server = statement.server.filter(|&of| of != server);
        }
        self.statements.retain(|one| one.server.is_some() || !matches!(one.progress, Progress::Ended(_)));
        for client in &mut self.clients {
            if client.waits.is_some_and(|(_, at)| at == server) {
                client.lose_response();
            }
        }
    }
}

impl Client {
    pub(super) fn lose_response(&mut self) {
        self.waits = None;
        self.has_lost_response = true;
    }

    /// `UNAVAILABLE`.
    pub(super) fn fail(&mut self, attempt: AttemptId) {
        if self.waits.is_some_and(|(waits, _)| waits == attempt) {
            self.lose_response();
        }
    }
}
