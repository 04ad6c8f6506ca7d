//! The credentials of services in force: loaded from the tokens file, and again when it changes.

use std::{path::PathBuf, sync::Arc};

use time::OffsetDateTime;
use tokio::sync::watch;

use super::reload;
use crate::{
    config::service_credentials::{self, TokensFileError},
    domain::service_credentials::ServiceCredentials,
    service::Clock,
};

/// Loads the tokens file, and reports its expired entries at each load.
pub(super) fn watch(path: PathBuf, clock: Clock) -> Result<watch::Receiver<Arc<ServiceCredentials>>, TokensFileError> {
    reload::watch_files(vec![path.clone()], "tokens", move || {
        service_credentials::read(&path).inspect(|credentials| warn_of_expired(credentials, clock.now()))
    })
}

fn warn_of_expired(credentials: &ServiceCredentials, now: OffsetDateTime) {
    let names: Vec<&str> = credentials.expired(now).into_iter().collect();
    if !names.is_empty() {
        tracing::warn!("The tokens file has expired entries: remove those of {}", names.join(", "));
    }
}
