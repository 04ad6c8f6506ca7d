//! Callers that call as fast as they are answered.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

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

/// Each caller calls again and again for as long as the window is open. `call` gets the caller's number and the call's, and
/// answers how many units of work it did.
pub async fn drive<Call>(
    callers: u64,
    window: Duration,
    call: impl Fn(u64, u64) -> Call + Clone + Send + 'static,
) -> Measured
where
    Call: Future<Output = u64> + Send,
{
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for caller in 0..callers {
        let call = call.clone();
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new(3).unwrap();
            let mut units = 0;
            for number in 0.. {
                let asked = Instant::now();
                if asked - started > window {
                    break;
                }
                units += call(caller, number).await;
                latencies.record(u64::try_from(asked.elapsed().as_micros()).unwrap()).unwrap();
            }
            (latencies, units)
        });
    }
    let mut all = Histogram::<u64>::new(3).unwrap();
    let mut units = 0;
    for (latencies, done) in tasks.join_all().await {
        all.add(latencies).unwrap();
        units += done;
    }
    Measured::of(&all, units, started.elapsed())
}
