//! The load generator. It is a closed loop: each caller sends its next request when it has the response to the last
//! one.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tonic::transport::{Channel, Endpoint};

/// The result of one measurement.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    /// Units of work per second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Units of work.
    pub units: u64,
}

impl Measurement {
    /// Takes latencies in microseconds.
    pub fn new(latencies: &Histogram<u64>, units: u64, elapsed: Duration) -> Self {
        let quantile_ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { rate: units as f64 / elapsed.as_secs_f64(), p50_ms: quantile_ms(0.5), p99_ms: quantile_ms(0.99), units }
    }
}

/// The number of cores for which the goals are defined. pgbench runs as many threads.
pub const THREADS: u64 = 2;

/// What callers connect to.
pub trait Target: Sync {
    /// A connection, whose clones share it.
    type Client: Clone;

    fn connect(&self) -> impl Future<Output = Self::Client>;
}

impl Target for Endpoint {
    type Client = Channel;

    async fn connect(&self) -> Channel {
        Self::connect(self).await.unwrap()
    }
}

/// Runs `call` in a loop for each caller until the window has passed. `call` takes a client, the caller's number and
/// the call's number, and returns how many units of work it did.
///
/// Like pgbench's clients, the callers are spread over threads that share nothing. Each thread has its own connection:
/// work that moves from one core to another would count as work of the service.
pub fn generate_load<To: Target, Call>(
    target: &To,
    callers: u64,
    window: Duration,
    call: impl Fn(To::Client, u64, u64) -> Call + Sync,
) -> Measurement
where
    Call: Future<Output = u64>,
{
    let threads = THREADS.min(callers);
    let (all_connected, call) = (Barrier::new(usize::try_from(threads).unwrap()), &call);
    let run_thread = |thread: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = target.connect().await;
            all_connected.wait();
            let callers = (thread..callers).step_by(usize::try_from(threads).unwrap());
            let started = Instant::now();
            let loops = callers.map(|caller| run_caller(&client, caller, window, call));
            (join_all(loops).await, started.elapsed())
        })
    };
    let results: Vec<_> = thread::scope(|scope| {
        let run_thread = &run_thread;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run_thread(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all_latencies = Histogram::<u64>::new(3).unwrap();
    let (mut all_units, mut longest) = (0, Duration::ZERO);
    for (callers, elapsed) in results {
        longest = longest.max(elapsed);
        for (latencies, units) in callers {
            all_latencies.add(latencies).unwrap();
            all_units += units;
        }
    }
    Measurement::new(&all_latencies, all_units, longest)
}

async fn run_caller<Client: Clone, Call: Future<Output = u64>>(
    client: &Client,
    caller: u64,
    window: Duration,
    call: &impl Fn(Client, u64, u64) -> Call,
) -> (Histogram<u64>, u64) {
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    let (mut units, started) = (0, Instant::now());
    for number in 0.. {
        let call_started = Instant::now();
        if call_started - started > window {
            break;
        }
        units += call(client.clone(), caller, number).await;
        latencies.record(u64::try_from(call_started.elapsed().as_micros()).unwrap()).unwrap();
    }
    (latencies, units)
}
