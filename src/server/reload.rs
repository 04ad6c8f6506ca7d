//! Reloads files that may change while the server runs: service credentials and certificates.
//!
//! It polls and compares contents, which also notices the symbolic links that Kubernetes swaps.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::error::ErrorChain;

/// Half of the 2 s within which a change has to take effect.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Loads a value from the files, and again whenever one of them changes, until every receiver is dropped. If loading
/// fails after a change, the previous value stays in force and the error is logged once.
pub(super) fn watch_files<T, E>(
    paths: Vec<PathBuf>,
    subject: &'static str,
    load: impl Fn() -> Result<T, E> + Send + 'static,
) -> Result<watch::Receiver<Arc<T>>, E>
where
    T: Send + Sync + 'static,
    E: Error + Send + 'static,
{
    // The files are small and local, and comparing all of their bytes misses no change.
    let read_all = move || -> Vec<_> { paths.iter().map(|path| std::fs::read(path).ok()).collect() };
    let mut contents = read_all();
    let (sender, receiver) = watch::channel(Arc::new(load()?));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = sender.closed() => return,
            }
            let current = read_all();
            if current == contents {
                continue;
            }
            contents = current;
            match load() {
                Ok(value) => {
                    tracing::info!("Reloaded the {subject}");
                    sender.send_replace(Arc::new(value));
                }
                Err(error) => tracing::error!(
                    cause = %ErrorChain(&error),
                    "Cannot reload the {subject}; the previous ones stay in force"
                ),
            }
        }
    });
    Ok(receiver)
}
