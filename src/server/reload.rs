//! Files that may change under a running server: tokens and certificates.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::error::ErrorChain;

/// Half of what operators may have to wait.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the files, and again whenever one of them has changed. Files that make no sense leave what was read before in
/// force, and are told once.
///
/// # Errors
/// Where they make no sense from the start.
pub(super) fn watch_files<T, E>(
    paths: Vec<PathBuf>,
    what: &'static str,
    read: impl Fn() -> Result<T, E> + Send + 'static,
) -> Result<(watch::Receiver<Arc<T>>, JoinHandle<()>), E>
where
    T: Send + Sync + 'static,
    E: Error + Send + 'static,
{
    // Small files on a local disk: to read them all is the surest way to see that one changed.
    let contents = move || -> Vec<_> { paths.iter().map(|path| std::fs::read(path).ok()).collect() };
    let mut content = contents();
    let (sender, receiver) = watch::channel(Arc::new(read()?));
    let following = tokio::spawn(async move {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let now = contents();
            if now == content {
                continue;
            }
            content = now;
            match read() {
                Ok(value) => {
                    tracing::info!("Read the {what} again");
                    sender.send_replace(Arc::new(value));
                }
                Err(error) => tracing::error!(cause = %ErrorChain(&error), "The {what} before stay in force"),
            }
        }
    });
    Ok((receiver, following))
}
