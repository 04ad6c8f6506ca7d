//! The steps of clients, servers and the database, as a model that `stateright` explores.
//!
//! A step is what can be observed or interrupted by itself: a request arrives, a statement takes its snapshot, it is
//! committed, its response arrives, the record is read. Between any two steps a server may crash, a connection may be
//! cut, a client may give up, and time may pass. A statement that has begun survives the crash of its server.

mod steps;

use stateright::{Model, Property};

use crate::{
    contract,
    database::{AttemptId, Database, Insertion, Request, Secret, Time},
    rules::Rule,
};

pub const CLIENTS: usize = 2;
pub const SERVERS: usize = 2;
/// How many attempts a client can make: attempt ids are numbered from the client's number times this.
const MAX_ATTEMPTS: u8 = 8;

/// What the clients call, and what can happen meanwhile.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The calls of each client. It repeats a call while it has attempts left, and continues with the next call when
    /// one is refused.
    pub calls: [Vec<Request>; CLIENTS],
    pub attempts: [u8; CLIENTS],
    pub servers: usize,
    pub crashes: u8,
    pub cuts: u8,
    /// The times at which the clock can be, in order.
    pub times: Vec<Time>,
    pub keys_end: bool,
    /// Situations that must occur, so that no sentence holds only because nothing happens.
    pub reached: &'static [&'static str],
    pub omitted: Option<Rule>,
}

/// A call that a server works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    pub client: usize,
    pub attempt: AttemptId,
    pub request: Request,
    pub created_at: Time,
}

/// A definite response. `UNAVAILABLE` and lost responses are not kept: their client only repeats its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Response {
    Ok { id: AttemptId, secret: Option<Secret>, replayed: bool, age: Time, key_has_ended: bool },
    AlreadyExists,
    RequestIdReused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    pub request: Request,
    pub attempt: AttemptId,
    pub response: Response,
    /// When the call arrived.
    pub from: Time,
    /// When the server decided the response.
    pub at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Client {
    call: usize,
    attempts: u8,
    /// The attempt that it waits for, and the server.
    waits: Option<(AttemptId, usize)>,
    pub answers: Vec<Answer>,
    pub has_lost_response: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Server {
    /// Wait for a statement, which they may share.
    waiting: Vec<Item>,
    /// Wait for a statement of their own.
    alone: Vec<Item>,
    /// Were not created; the query for their record is next. The snapshot is only for the model that lacks
    /// [`Rule::RecordIsReadAfterwards`].
    looking: Vec<(Item, Option<Database>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Progress {
    Begun,
    /// Only in the model that lacks [`Rule::RecordIsCommittedWithTenant`].
    RecordsCommitted(Vec<Insertion>),
    /// `None`: rolled back.
    Ended(Option<Vec<Insertion>>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Statement {
    /// `None` if it has crashed.
    server: Option<usize>,
    items: Vec<Item>,
    snapshot: Database,
    progress: Progress,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub now: usize,
    pub database: Database,
    statements: Vec<Statement>,
    servers: [Server; SERVERS],
    pub clients: [Client; CLIENTS],
    crashes: u8,
    cuts: u8,
    has_ended_a_key: bool,
    pub has_split_a_statement: bool,
    pub has_outlived_its_server: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Send {
        client: usize,
        server: usize,
    },
    /// The client disconnects, or the response is lost on its way.
    GiveUp {
        client: usize,
    },
    /// A statement with all items that wait, except those with a key of an item before them.
    BeginShared {
        server: usize,
    },
    BeginAlone {
        server: usize,
    },
    Advance {
        statement: usize,
    },
    /// The response to the statement arrives.
    Reply {
        statement: usize,
    },
    /// The connection of the statement is cut.
    Cut {
        statement: usize,
    },
    LookUp {
        server: usize,
    },
    Crash {
        server: usize,
    },
    Wait,
    CleanUp,
    EndKey,
}

impl Model for Scenario {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            database: Database::default(),
            statements: Vec::new(),
            servers: Default::default(),
            clients: Default::default(),
            crashes: 0,
            cuts: 0,
            has_ended_a_key: false,
            has_split_a_statement: false,
            has_outlived_its_server: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_first = state.clients.iter().all(|client| client.attempts == 0);
        for (number, client) in state.clients.iter().enumerate() {
            if client.waits.is_some() {
                actions.push(Action::GiveUp { client: number });
            } else if client.attempts < self.attempts[number] && client.call < self.calls[number].len() {
                // The servers are alike, so the first request of all goes to the first.
                let servers = if is_first { 1 } else { self.servers };
                actions.extend((0..servers).map(|server| Action::Send { client: number, server }));
            }
        }
        for (number, server) in state.servers.iter().enumerate() {
            let can = |is_possible: bool, action| is_possible.then_some(action);
            actions.extend(can(!server.waiting.is_empty(), Action::BeginShared { server: number }));
            actions.extend(can(!server.alone.is_empty(), Action::BeginAlone { server: number }));
            actions.extend(can(!server.looking.is_empty(), Action::LookUp { server: number }));
            let is_busy = state.clients.iter().any(|client| client.waits.is_some_and(|(_, at)| at == number));
            actions.extend(can(is_busy && state.crashes < self.crashes, Action::Crash { server: number }));
        }
        for (number, statement) in state.statements.iter().enumerate() {
            let has_ended = matches!(statement.progress, Progress::Ended(_));
            let next =
                if has_ended { Action::Reply { statement: number } } else { Action::Advance { statement: number } };
            actions.push(next);
            actions.extend((state.cuts < self.cuts).then_some(Action::Cut { statement: number }));
        }
        let can_wait = state.now + 1 < self.times.len() && state.has_only_calls_of(self.times[state.now]);
        actions.extend(can_wait.then_some(Action::Wait));
        actions.extend((!state.database.records.is_empty() && state.now > 0).then_some(Action::CleanUp));
        let can_end = self.keys_end && !state.has_ended_a_key && !state.database.tenants.is_empty();
        actions.extend(can_end.then_some(Action::EndKey));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let now = self.times[next.now];
        match action {
            Action::Send { client, server } => next.send(self, client, server, now),
            Action::GiveUp { client } => next.clients[client].lose_response(),
            Action::BeginShared { server } => next.begin_shared(server),
            Action::BeginAlone { server } => {
                let item = next.servers[server].alone.remove(0);
                next.begin(server, vec![item]);
            }
            Action::Advance { statement } => next.advance(statement, now, self.omitted),
            Action::Reply { statement } => next.reply(statement, now, self.omitted),
            Action::Cut { statement } => {
                next.cuts += 1;
                let statement = next.statements.remove(statement);
                for item in statement.items.iter().filter(|_| statement.server.is_some()) {
                    next.clients[item.client].fail(item.attempt);
                }
            }
            Action::LookUp { server } => next.look_up(server, now, self.omitted),
            Action::Crash { server } => next.crash(server),
            Action::Wait => next.now += 1,
            Action::CleanUp => next.database.clean_up(now, self.omitted),
            Action::EndKey => {
                next.has_ended_a_key = true;
                next.database.tenants[0].key_has_ended = true;
            }
        }
        // Their order has no effect.
        next.statements.sort();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = contract::sentences();
        properties.extend(contract::situations().into_iter().filter(|one| self.reached.contains(&one.name)));
        properties
    }
}
