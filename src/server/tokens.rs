//! The tokens in force: read at the start and again when their file changes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    config::tokens::{self, TokensError},
    domain::token::KnownTokens,
    error::Chain,
};

/// Half of what operators may have to wait.
const INTERVAL: Duration = Duration::from_secs(1);

/// Follows the file until it is dropped by its aborted task. A broken file leaves the tokens before in force, and is told
/// once.
///
/// # Errors
/// Where the file is broken from the start.
pub(super) fn follow(path: PathBuf) -> Result<(watch::Receiver<Arc<KnownTokens>>, JoinHandle<()>), TokensError> {
    let (sender, receiver) = watch::channel(Arc::new(tokens::read(&path)?));
    let following = tokio::spawn(async move {
        let mut content = std::fs::read(&path).ok();
        loop {
            tokio::time::sleep(INTERVAL).await;
            // A small file on a local disk: reading it all is the surest way to see that it changed.
            let now = std::fs::read(&path).ok();
            if now == content {
                continue;
            }
            content = now;
            match tokens::read(&path) {
                Ok(tokens) => {
                    tracing::info!("Read the tokens again");
                    sender.send_replace(Arc::new(tokens));
                }
                Err(error) => tracing::error!(cause = %Chain(&error), "The tokens before stay in force"),
            }
        }
    });
    Ok((receiver, following))
}
