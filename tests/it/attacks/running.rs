//! An attack in progress.

use std::{
    collections::BTreeMap,
    mem::take,
    sync::{Arc, Mutex},
    time::Duration,
};

use h2::client::{Builder, SendRequest};
use prost::bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::call::{Call, CallEnd};
use crate::support::http2::Port;

/// A server that stops reading keeps an attacker from sending everything.
const POSITION_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before an attacker connects again.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// Calls that are repeated as soon as the server ends them.
pub struct Calls {
    pub port: Port,
    pub connections: usize,
    pub streams_per_connection: usize,
    /// The streams of a connection take turns with these.
    pub of_streams: Vec<Call>,
    /// `SETTINGS_INITIAL_WINDOW_SIZE`: how much of each response the server may send.
    pub initial_window: u32,
    /// Upper bound of all repetitions together.
    pub repetitions_per_second: u32,
}

/// How many calls ended in which way.
pub type CallEnds = BTreeMap<String, usize>;

/// An attacker is in position when it has dropped this.
#[derive(Debug, Clone, Default)]
pub struct InPosition {
    _sender: Option<mpsc::Sender<()>>,
}

/// The attackers, which stop when it is dropped.
pub struct RunningAttack {
    attackers: JoinSet<()>,
    ends: Arc<Mutex<CallEnds>>,
    positions: (InPosition, mpsc::Receiver<()>),
}

impl RunningAttack {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Self {
            attackers: JoinSet::new(),
            ends: Arc::default(),
            positions: (InPosition { _sender: Some(sender) }, receiver),
        }
    }

    pub fn of_calls(calls: impl IntoIterator<Item = Calls>) -> Self {
        let mut attack = Self::new();
        for calls in calls {
            attack.add_calls(&calls);
        }
        attack
    }

    pub fn add_calls(&mut self, calls: &Calls) {
        let streams = u32::try_from(calls.connections * calls.streams_per_connection).unwrap();
        let pause = Duration::from_secs(1) * streams / calls.repetitions_per_second.max(1);
        for _ in 0..calls.connections {
            let of_streams: Vec<Call> =
                calls.of_streams.iter().cycle().take(calls.streams_per_connection).cloned().collect();
            let mut settings = Builder::new();
            settings.initial_window_size(calls.initial_window);
            let (port, ends) = (calls.port.clone(), Arc::clone(&self.ends));
            self.add(move |in_position| {
                make_calls(port.clone(), settings.clone(), of_streams.clone(), pause, Arc::clone(&ends), in_position)
            });
        }
    }

    /// Adds an attacker that connects again some time after its connection was closed.
    pub fn add<Connection>(&mut self, connect: impl Fn(InPosition) -> Connection + Send + 'static)
    where
        Connection: Future<Output = ()> + Send + 'static,
    {
        let mut in_position = self.positions.0.clone();
        self.attackers.spawn(async move {
            loop {
                connect(take(&mut in_position)).await;
                sleep(RECONNECT_INTERVAL).await;
            }
        });
    }

    /// Waits until all attackers have sent everything that the server accepts.
    pub async fn wait_until_in_position(&mut self) {
        self.positions.0 = InPosition::default();
        let _ = timeout(POSITION_TIMEOUT, self.positions.1.recv()).await;
    }

    /// How many calls have ended in this way.
    pub fn ended(&self, end: &CallEnd) -> usize {
        self.ends.lock().unwrap().get(&name(end)).copied().unwrap_or_default()
    }

    /// Stops the attackers and returns how their calls ended until then.
    pub async fn stop(mut self) -> CallEnds {
        // Before the attackers close their connections.
        let ends = take(&mut *self.ends.lock().unwrap());
        self.attackers.shutdown().await;
        ends
    }
}

/// Makes these calls on one connection, each in its own stream and again after its end, until the connection is closed.
async fn make_calls(
    port: Port,
    settings: Builder,
    calls: Vec<Call>,
    pause: Duration,
    ends: Arc<Mutex<CallEnds>>,
    in_position: InPosition,
) {
    let Ok(connection) = port.http2(&settings).await else { return };
    let mut streams = JoinSet::new();
    for call in calls {
        let (requests, ends, in_position) = (connection.requests.clone(), Arc::clone(&ends), in_position.clone());
        streams.spawn(repeat_call(requests, call, pause, ends, in_position));
    }
    drop(in_position);
    while streams.join_next().await.is_some() {}
}

/// Returns when the connection is closed.
async fn repeat_call(
    requests: SendRequest<Bytes>,
    call: Call,
    pause: Duration,
    ends: Arc<Mutex<CallEnds>>,
    mut in_position: InPosition,
) {
    loop {
        let end = call.make(requests.clone(), take(&mut in_position)).await;
        *ends.lock().unwrap().entry(name(&end)).or_default() += 1;
        if end == CallEnd::Disconnected {
            return;
        }
        sleep(pause).await;
    }
}

fn name(end: &CallEnd) -> String {
    match end {
        CallEnd::Status(code) => format!("{code:?}"),
        CallEnd::Http(status, _) => format!("HTTP {}", status.as_u16()),
        CallEnd::Reset(reason) => format!("reset: {reason:?}"),
        CallEnd::Disconnected => "disconnected".to_owned(),
    }
}
