//! Callers that call as fast as they are answered.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tonic::transport::{Channel, Endpoint};

/// What came of one window.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Units of work a second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Measured {
    /// Latencies in microseconds.
    pub fn of(latencies: &Histogram<u64>, units: u64, elapsed: Duration) -> Self {
        let quantile = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { rate: units as f64 / elapsed.as_secs_f64(), p50_ms: quantile(0.5), p99_ms: quantile(0.99) }
    }
}

/// As many as the cores that the goals speak of, and as many as pgbench gets.
const THREADS: u64 = 2;

/// Each caller calls again and again for as long as the window is open. `call` gets a channel, the caller's number and the
/// call's, and answers how many units of work it did.
///
/// Callers are spread over threads that have nothing to do with each other, as pgbench's clients are: a channel each, and
/// nothing that is handed from one core to the other, which would count as the service's work.
pub fn drive<Call>(
    endpoint: &Endpoint,
    callers: u64,
    window: Duration,
    call: impl Fn(Channel, u64, u64) -> Call + Sync,
) -> Measured
where
    Call: Future<Output = u64>,
{
    let threads = THREADS.min(callers);
    let (connected, call) = (Barrier::new(usize::try_from(threads).unwrap()), &call);
    let work = |thread: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let channel = endpoint.connect().await.unwrap();
            connected.wait();
            let callers = (thread..callers).step_by(usize::try_from(threads).unwrap());
            let started = Instant::now();
            let calling = callers.map(|caller| call_again_and_again(&channel, caller, window, call));
            (join_all(calling).await, started.elapsed())
        })
    };
    let done: Vec<_> = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = Histogram::<u64>::new(3).unwrap();
    let (mut units, mut longest) = (0, Duration::ZERO);
    for (callers, elapsed) in done {
        longest = longest.max(elapsed);
        for (latencies, done) in callers {
            all.add(latencies).unwrap();
            units += done;
        }
    }
    Measured::of(&all, units, longest)
}

async fn call_again_and_again<Call: Future<Output = u64>>(
    channel: &Channel,
    caller: u64,
    window: Duration,
    call: &impl Fn(Channel, u64, u64) -> Call,
) -> (Histogram<u64>, u64) {
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    let (mut units, started) = (0, Instant::now());
    for number in 0.. {
        let asked = Instant::now();
        if asked - started > window {
            break;
        }
        units += call(channel.clone(), caller, number).await;
        latencies.record(u64::try_from(asked.elapsed().as_micros()).unwrap()).unwrap();
    }
    (latencies, units)
}
