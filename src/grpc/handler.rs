//! What every handler does: convert the request, run one service method in a task, convert its output. The services'
//! own handlers are in `tenant_provisioning` and `package_catalog`.

use std::{
    future::ready,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
};

use futures_util::{
    Stream, StreamExt as _,
    future::Either::{Left, Right},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    CallTasks,
    layers::call_context::{CallContext, panic_message},
    status,
};
use crate::{
    domain::{
        Caller, TenantId, Violations,
        catalog::{ListPackages, ListSegments},
    },
    error::{Error, Result},
};

pub type RpcResult<T> = std::result::Result<Response<T>, Status>;

pub type ResponseStream<Reply> = Pin<Box<dyn Stream<Item = std::result::Result<Reply, Status>> + Send>>;

/// Responses buffered for a slow client. Backpressure: the producer blocks when the buffer is full.
const STREAM_BUFFER: usize = 64;

/// The input of a call about one tenant.
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

/// Serves the RPCs of one gRPC service with the methods of `Service`.
#[derive(Debug)]
pub struct Handler<Service> {
    service: Arc<Service>,
    tasks: CallTasks,
}

impl<Service> Handler<Service> {
    pub const fn new(service: Arc<Service>, tasks: CallTasks) -> Self {
        Self { service, tasks }
    }

    /// Parses the request, runs `work` in a task and converts its output.
    pub fn unary<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        work: impl FnOnce(Arc<Service>, Input) -> Work,
    ) -> impl Future<Output = RpcResult<Reply>> + Send
    where
        Input: TryFrom<Message, Error = Violations>,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        self.unary_with_caller(request, |service, _caller, input| work(service, input))
    }

    /// As [`Handler::unary`], for calls that a tenant key permits for its own tenant only. Another tenant's id is rejected
    /// before anything is read, whether or not that tenant exists.
    pub fn unary_for_tenant<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        work: impl FnOnce(Arc<Service>, Input) -> Work,
    ) -> impl Future<Output = RpcResult<Reply>> + Send
    where
        Input: TryFrom<Message, Error = Violations> + TenantScoped,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        self.unary_with_caller(request, |service, caller, input: Input| {
            let is_permitted = caller.can_access_tenant(input.tenant_id());
            if is_permitted { Left(work(service, input)) } else { Right(ready(Err(Error::PermissionDenied))) }
        })
    }

    /// As [`Handler::unary`], for work that needs to know its caller.
    ///
    /// The work starts when this is called, not when the future is polled, so that the future holds neither the request nor
    /// the work.
    pub fn unary_with_caller<Message, Input, Output, Reply, Work>(
        &self,
        mut request: Request<Message>,
        work: impl FnOnce(Arc<Service>, Caller, Input) -> Work,
    ) -> impl Future<Output = RpcResult<Reply>> + Send
    where
        Input: TryFrom<Message, Error = Violations>,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        let context = request.extensions_mut().remove::<CallContext>().unwrap_or_default();
        let trace_id = context.trace_id;
        let running = parse(&context, request.into_inner())
            .map(|input| self.tasks.run(context.permit, work(Arc::clone(&self.service), context.caller, input)));
        async move {
            let output = match running {
                Ok(running) => running.await,
                Err(error) => Err(error),
            };
            output.map(|output| Response::new(output.into())).map_err(|error| status::from_error(error, trace_id))
        }
    }

    /// As [`Handler::unary`], for an RPC with a stream of responses. An error ends the stream.
    pub fn server_streaming<Message, Input, Output, Reply, Outputs>(
        &self,
        mut request: Request<Message>,
        work: impl FnOnce(Arc<Service>, Input) -> Outputs,
    ) -> RpcResult<ResponseStream<Reply>>
    where
        Input: TryFrom<Message, Error = Violations>,
        Outputs: Stream<Item = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output> + 'static,
    {
        let context = request.extensions_mut().remove::<CallContext>().unwrap_or_default();
        let trace_id = context.trace_id;
        let to_status = move |error| status::from_error(error, trace_id);
        let input = parse(&context, request.into_inner()).map_err(to_status)?;
        // Unwind-safe: the stream is dropped after a panic. Without the error, the client would take the responses so far
        // for all of them.
        let outputs = AssertUnwindSafe(work(Arc::clone(&self.service), input)).catch_unwind();
        let outputs = outputs.map(|output| output.unwrap_or_else(|panic| Err(Error::internal(panic_message(&*panic)))));
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        let forward = async move {
            let mut outputs = pin!(outputs);
            while let Some(output) = outputs.next().await {
                // Fails once the client has disconnected.
                if sender.send(output).await.is_err() {
                    break;
                }
            }
        };
        self.tasks.spawn(context.permit, forward);
        let reply = move |output: Result<Output>| output.map(Reply::from).map_err(to_status);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(reply))))
    }
}

fn parse<Message, Input>(context: &CallContext, message: Message) -> Result<Input>
where
    Input: TryFrom<Message, Error = Violations>,
{
    if context.deadline_exceeded() { Err(Error::DeadlineExceeded) } else { Ok(Input::try_from(message)?) }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::grpc::pb;

    #[tokio::test]
    async fn a_stream_whose_work_panics_ends_with_an_error() {
        let handler = Handler::new(Arc::new(()), CallTasks::default());
        let work = |_service, _only: Option<TenantId>| {
            stream::iter(0..2).map(|number| if number == 0 { Ok(1) } else { panic!("a bug") })
        };
        let request = Request::new(pb::CheckIntegrityRequest::default());
        let replies = handler.server_streaming::<_, _, _, i32, _>(request, work).unwrap().into_inner();
        let replies: Vec<_> = replies.map(|reply| reply.map_err(|status| status.code())).collect().await;
        assert_eq!(replies, [Ok(1), Err(tonic::Code::Internal)]);
    }
}
