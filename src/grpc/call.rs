//! How every handler runs its work.

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{layers::call_context::CallContext, status};
use crate::{
    domain::Caller,
    error::{Error, Result},
};

/// Who calls.
pub fn caller<Message>(request: &Request<Message>) -> Caller {
    request.extensions().get::<CallContext>().map_or_else(Caller::anonymous, |context| context.caller.clone())
}

/// The tasks in which calls do their work. Cheap to clone.
///
/// Work runs in a task of its own, because tonic drops a handler when its caller hangs up or runs out of time, and a
/// future that is dropped in the middle can leave its connection inside a transaction. The task goes on to its end,
/// bounded by the database's statement timeout, and the server waits for it when it stops.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    tasks: TaskTracker,
}

impl Calls {
    /// Message → input → work → output → message, or the status that says why not.
    pub async fn answer<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        parse: impl FnOnce(Message) -> Result<Input>,
        work: impl FnOnce(Input) -> Work,
        render: impl FnOnce(Output) -> Reply,
    ) -> std::result::Result<Response<Reply>, Status>
    where
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
    {
        let context = request.extensions().get::<CallContext>().cloned().unwrap_or_default();
        let output = async {
            if context.is_too_late() {
                return Err(Error::DeadlineExceeded);
            }
            let input = parse(request.into_inner())?;
            self.tasks.spawn(work(input).in_current_span()).await.map_err(Error::internal)?
        };
        match output.await {
            Ok(output) => Ok(Response::new(render(output))),
            Err(error) => Err(status::from_error(error, context.trace_id)),
        }
    }

    /// Until the last task has ended. To be asked when no more calls come in.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
