//! What the program tells of its work: one subscriber, to standard error, so that standard output stays data.

use tracing_subscriber::{fmt::format::FmtSpan, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogFormat, LogSettings};

/// Installs the subscriber; once in a process, and a second call changes nothing.
pub fn init(settings: LogSettings) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    let registry = tracing_subscriber::registry().with(settings.filter);
    let installed = match settings.format {
        LogFormat::Pretty => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_span_list(false)).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("A subscriber is installed already");
    }
}
