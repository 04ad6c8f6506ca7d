//! How every handler runs its work.

use std::{
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
};

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{
    layers::{
        call_context::{CallContext, panic_message},
        concurrency_limit::CallPermit,
    },
    status,
};
use crate::{
    domain::{
        Caller, TenantId,
        catalog::{ListPackages, ListSegments},
    },
    error::{Error, Result},
};

/// Who calls.
pub fn caller<Message>(request: &Request<Message>) -> Caller {
    request.extensions().get::<CallContext>().map_or_else(Caller::anonymous, |context| context.caller.clone())
}

/// An input of a call about one tenant.
pub trait TenantScoped {
    fn tenant_id(&self) -> TenantId;
}

impl<T> TenantScoped for (TenantId, T) {
    fn tenant_id(&self) -> TenantId {
        self.0
    }
}

impl TenantScoped for ListPackages {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl TenantScoped for ListSegments {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

pub type ResponseStream<Reply> = Pin<Box<dyn Stream<Item = std::result::Result<Reply, Status>> + Send>>;

/// Answers that wait for a slow caller; the work stands still when there are so many.
const STREAM_BUFFER: usize = 64;

/// The tasks in which calls do their work. Cheap to clone.
///
/// Work runs in a task of its own, because tonic drops a handler when its caller hangs up or runs out of time, and a
/// future that is dropped in the middle can leave its connection inside a transaction. The task goes on to its end,
/// bounded by the database's statement timeout, and the server waits for it when it stops.
#[derive(Debug, Clone, Default)]
pub struct CallTasks {
    tasks: TaskTracker,
}

impl CallTasks {
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
            if context.deadline_exceeded() {
                return Err(Error::DeadlineExceeded);
            }
            let input = parse(request.into_inner())?;
            self.run(context.permit.clone(), work(input)).await
        };
        match output.await {
            Ok(output) => Ok(Response::new(render(output))),
            Err(error) => Err(status::from_error(error, context.trace_id)),
        }
    }

    /// As [`CallTasks::answer`], for calls about one tenant, which a tenant's own key may make about itself alone: looked at
    /// before anything is read, whether or not the other tenant exists.
    pub async fn answer_about<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        parse: impl FnOnce(Message) -> Result<Input>,
        work: impl FnOnce(Input) -> Work,
        render: impl FnOnce(Output) -> Reply,
    ) -> std::result::Result<Response<Reply>, Status>
    where
        Input: TenantScoped,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
    {
        let caller = caller(&request);
        let admit = move |message| {
            let input = parse(message)?;
            if caller.can_access_tenant(input.tenant_id()) { Ok(input) } else { Err(Error::PermissionDenied) }
        };
        self.answer(request, admit, work, render).await
    }

    /// As [`CallTasks::answer`], for a method with a stream of responses. An error ends the stream.
    pub fn stream<Message, Input, Output, Reply, Outputs>(
        &self,
        request: Request<Message>,
        parse: impl FnOnce(Message) -> Result<Input>,
        work: impl FnOnce(Input) -> Outputs,
        render: impl Fn(Output) -> Reply + Send + 'static,
    ) -> std::result::Result<Response<ResponseStream<Reply>>, Status>
    where
        Outputs: Stream<Item = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: 'static,
    {
        let context = request.extensions().get::<CallContext>().cloned().unwrap_or_default();
        let trace_id = context.trace_id;
        let input =
            if context.deadline_exceeded() { Err(Error::DeadlineExceeded) } else { parse(request.into_inner()) };
        let input = input.map_err(|error| status::from_error(error, trace_id))?;
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        // Unwind-safe: the stream is dropped after a panic. Without the error, the client would take the responses so far
        // for all of them.
        let outputs = AssertUnwindSafe(work(input)).catch_unwind();
        let outputs = outputs.map(|output| output.unwrap_or_else(|panic| Err(Error::internal(panic_message(&*panic)))));
        let task = async move {
            let _permit = context.permit;
            let mut outputs = pin!(outputs);
            while let Some(output) = outputs.next().await {
                // Fails once the client has disconnected.
                if sender.send(output).await.is_err() {
                    break;
                }
            }
        };
        self.tasks.spawn(task.in_current_span());
        let reply =
            move |output: Result<Output>| output.map(&render).map_err(|error| status::from_error(error, trace_id));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(reply))))
    }

    /// Does the work in a task, which keeps the call's place to its end.
    pub async fn run<Output: Send + 'static>(
        &self,
        permit: Option<CallPermit>,
        work: impl Future<Output = Result<Output>> + Send + 'static,
    ) -> Result<Output> {
        // A block that awaits would keep room for the work twice.
        let work = work.map(move |output| {
            drop(permit);
            output
        });
        self.tasks.spawn(work.in_current_span()).await.map_err(Error::internal)?
    }

    /// Until the last task has ended. To be asked when no more calls come in.
    pub async fn wait_until_idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_stream_whose_work_panics_ends_with_an_error() {
        let work = |()| stream::iter(0..2).map(|number| if number == 0 { Ok(1) } else { panic!("a bug") });
        let replies = CallTasks::default().stream(Request::new(()), Ok, work, |number| number).unwrap().into_inner();
        let replies: Vec<_> = replies.map(|reply| reply.map_err(|status| status.code())).collect().await;
        assert_eq!(replies, [Ok(1), Err(tonic::Code::Internal)]);
    }
}
