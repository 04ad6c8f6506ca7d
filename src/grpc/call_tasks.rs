//! Runs the work of calls in tracked tasks. What a handler does around its work is in `handler`.

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::layers::admission::CallPermit;
use crate::error::{Error, Result};

/// The tasks of all calls. Cheap to clone.
///
/// tonic drops a handler when its client disconnects or its deadline passes, and a future that is dropped halfway can
/// leave its connection inside a transaction. Work therefore runs in a task of its own, which continues to its end,
/// bounded by the database's statement timeout. A server that shuts down waits for these tasks.
#[derive(Debug, Clone, Default)]
pub struct CallTasks {
    tasks: TaskTracker,
}

impl CallTasks {
    /// Starts `work` in a task, which holds the permit until it ends, and returns its result. A panic becomes
    /// [`Error::Internal`].
    pub fn run<Output: Send + 'static>(
        &self,
        permit: Option<CallPermit>,
        work: impl Future<Output = Result<Output>> + Send + 'static,
    ) -> impl Future<Output = Result<Output>> + Send {
        self.spawn(permit, work).map(|joined| joined.map_err(Error::internal).flatten())
    }

    /// Starts `work` in a task, which holds the permit until it ends.
    pub fn spawn<Output: Send + 'static>(
        &self,
        permit: Option<CallPermit>,
        work: impl Future<Output = Output> + Send + 'static,
    ) -> JoinHandle<Output> {
        // In a box, because the future of a task is moved several times, also when it has ended.
        let work = Box::pin(work).map(move |output| {
            drop(permit);
            output
        });
        self.tasks.spawn(work.in_current_span())
    }

    /// Waits for the last task to end. Call it after the server has stopped accepting calls.
    pub async fn wait_until_idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
