//! What every handler does: convert the request, run one service method in a task, convert its output. The handlers
//! of the two services are in `tenant_provisioning` and `package_catalog`.

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
    domain::{Caller, TenantId, Violations},
    error::{Error, Result},
};

pub type RpcResult<T> = std::result::Result<Response<T>, Status>;

pub type ResponseStream<Reply> = Pin<Box<dyn Stream<Item = std::result::Result<Reply, Status>> + Send>>;

/// Responses buffered for a slow client. Backpressure: the producer waits while the buffer is full.
const STREAM_BUFFER: usize = 64;

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

    /// As [`Handler::unary`], for calls that a tenant key may make for its own tenant only. The input begins with the tenant's
    /// id. Another tenant's id is rejected before the database is queried, whether or not that tenant exists.
    pub fn unary_for_tenant<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        work: impl FnOnce(Arc<Service>, (TenantId, Input)) -> Work,
    ) -> impl Future<Output = RpcResult<Reply>> + Send
    where
        (TenantId, Input): TryFrom<Message, Error = Violations>,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        let is_permitted = |caller: &Caller, input: &(TenantId, Input)| caller.can_access_tenant(input.0);
        self.unary_if(request, is_permitted, work)
    }

    /// As [`Handler::unary`], for calls whose input decides whether the caller may make them. One that it may not make is
    /// rejected before the database is queried.
    pub fn unary_if<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        is_permitted: impl FnOnce(&Caller, &Input) -> bool,
        work: impl FnOnce(Arc<Service>, Input) -> Work,
    ) -> impl Future<Output = RpcResult<Reply>> + Send
    where
        Input: TryFrom<Message, Error = Violations>,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        self.unary_with_caller(request, |service, caller, input| {
            let is_permitted = is_permitted(&caller, &input);
            if is_permitted { Left(work(service, input)) } else { Right(ready(Err(Error::PermissionDenied))) }
        })
    }

    /// As [`Handler::unary`], for work that needs to know its caller.
    ///
    /// Unlike an `async fn`, this starts the work when it is called. The returned future holds only a join handle, which
    /// keeps the future of each call small.
    pub fn unary_with_caller<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        work: impl FnOnce(Arc<Service>, Caller, Input) -> Work,
    ) -> impl Future<Output = RpcResult<Reply>> + Send
    where
        Input: TryFrom<Message, Error = Violations>,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        let (context, input) = parse(request);
        let trace_id = context.trace_id;
        let task =
            input.map(|(caller, input)| self.tasks.run(context.permit, work(Arc::clone(&self.service), caller, input)));
        async move {
            let output = match task {
                Ok(task) => task.await,
                Err(error) => Err(error),
            };
            output.map(|output| Response::new(output.into())).map_err(|error| status::from_error(error, trace_id))
        }
    }

    /// As [`Handler::unary`], for an RPC with a stream of responses. An error ends the stream.
    pub fn server_streaming<Message, Input, Output, Reply, Outputs>(
        &self,
        request: Request<Message>,
        work: impl FnOnce(Arc<Service>, Input) -> Outputs,
    ) -> RpcResult<ResponseStream<Reply>>
    where
        Input: TryFrom<Message, Error = Violations>,
        Outputs: Stream<Item = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output> + 'static,
    {
        let (context, input) = parse(request);
        let trace_id = context.trace_id;
        let to_status = move |error| status::from_error(error, trace_id);
        let (_caller, input) = input.map_err(to_status)?;
        // Without `catch_unwind`, a panic would end the stream with OK, and the client would take a truncated stream for a
        // complete one. Unwind-safe: the stream is not polled again after a panic.
        let results = AssertUnwindSafe(work(Arc::clone(&self.service), input)).catch_unwind();
        let outputs = results.map(|output| output.unwrap_or_else(|panic| Err(Error::internal(panic_message(&*panic)))));
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

/// Returns the context of a call, and its caller and input unless the deadline has passed or the request is invalid.
fn parse<Message, Input>(mut request: Request<Message>) -> (CallContext, Result<(Caller, Input)>)
where
    Input: TryFrom<Message, Error = Violations>,
{
    let mut context = request.extensions_mut().remove::<CallContext>().unwrap_or_default();
    let Some(caller) = context.caller.take() else {
        return (context, Err(Error::internal("the call did not pass the authentication layer")));
    };
    if context.deadline_exceeded() {
        return (context, Err(Error::DeadlineExceeded));
    }
    let input = Input::try_from(request.into_inner()).map_err(Error::from);
    (context, input.map(|input| (caller, input)))
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
        let mut request = Request::new(pb::CheckIntegrityRequest::default());
        request.extensions_mut().insert(CallContext { caller: Some(Caller::anonymous()), ..CallContext::default() });
        let replies = handler.server_streaming::<_, _, _, i32, _>(request, work).unwrap().into_inner();
        let replies: Vec<_> = replies.map(|reply| reply.map_err(|status| status.code())).collect().await;
        assert_eq!(replies, [Ok(1), Err(tonic::Code::Internal)]);
    }

    #[tokio::test]
    async fn a_call_whose_caller_was_not_identified_is_refused() {
        let handler = Handler::new(Arc::new(()), CallTasks::default());
        let mut request = Request::new(pb::DeleteTenantRequest { tenant_id: uuid::Uuid::nil().to_string() });
        request.extensions_mut().insert(CallContext::default());
        let work = |_service, _tenant_id: TenantId| async { Ok(()) };
        let response = handler.unary::<_, _, _, pb::DeletePackageResponse, _>(request, work).await;
        assert_eq!(response.unwrap_err().code(), tonic::Code::Internal);
    }
}
