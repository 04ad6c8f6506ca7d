//! What every handler does: check which tenants the request concerns, convert it, run one service method in a task,
//! convert its output. The handlers of the two services are in `tenant_provisioning` and `package_catalog`.

use std::{
    num::NonZeroU128,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    CallTasks,
    layers::call_context::{CallContext, panic_message},
    status,
    tenant_access::{Access, TenantRequest},
};
use crate::{
    domain::{Actor, Caller, Violations},
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
        Message: TenantRequest,
        Input: TryFrom<Message, Error = Violations>,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        self.unary_by_actor(request, |service, _actor, input| work(service, input))
    }

    /// As [`Handler::unary`], for work that changes something, and so needs to know its caller.
    ///
    /// Unlike an `async fn`, this starts the work when it is called. The returned future holds only a join handle,
    /// which keeps the future of each call small.
    pub fn unary_by_actor<Message, Input, Output, Reply, Work>(
        &self,
        request: Request<Message>,
        work: impl FnOnce(Arc<Service>, Actor, Input) -> Work,
    ) -> impl Future<Output = RpcResult<Reply>> + Send
    where
        Message: TenantRequest,
        Input: TryFrom<Message, Error = Violations>,
        Work: Future<Output = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output>,
    {
        let (context, input) = parse(request);
        let trace_id = context.trace_id;
        let task = input.map(|(caller, input)| {
            let trace_id = NonZeroU128::new(u128::from_be_bytes(trace_id.to_bytes()));
            let work = work(Arc::clone(&self.service), Actor { caller, trace_id }, input);
            self.tasks.run(context.permit, work)
        });
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
        Message: TenantRequest,
        Input: TryFrom<Message, Error = Violations>,
        Outputs: Stream<Item = Result<Output>> + Send + 'static,
        Output: Send + 'static,
        Reply: From<Output> + 'static,
    {
        let (context, input) = parse(request);
        let trace_id = context.trace_id;
        let to_status = move |error| status::from_error(error, trace_id);
        let (_caller, input) = input.map_err(to_status)?;
        // Without `catch_unwind`, a panic would end the stream with OK, and the client would take a truncated stream
        // for a complete one. Unwind-safe: the stream is not polled again after a panic.
        let results = AssertUnwindSafe(work(Arc::clone(&self.service), input)).catch_unwind();
        let outputs = results.map(|output| output.unwrap_or_else(|panic| Err(Error::internal(panic_message(&*panic)))));
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        let forward = async move {
            let mut outputs = pin!(outputs);
            while let Some(output) = outputs.next().await {
                let is_last = output.is_err();
                // Fails once the client has disconnected.
                if sender.send(output).await.is_err() || is_last {
                    break;
                }
            }
        };
        self.tasks.spawn(context.permit, forward);
        let reply = move |output: Result<Output>| output.map(Reply::from).map_err(to_status);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(reply))))
    }
}

/// Returns the context of a call, and its caller and input unless the deadline has passed, the caller may not access
/// what the request names, or the request is invalid.
fn parse<Message, Input>(mut request: Request<Message>) -> (CallContext, Result<(Caller, Input)>)
where
    Message: TenantRequest,
    Input: TryFrom<Message, Error = Violations>,
{
    let mut context = request.extensions_mut().remove::<CallContext>().unwrap_or_default();
    let Some(caller) = context.caller.take() else {
        return (context, Err(Error::internal("the call did not pass the authentication layer")));
    };
    if context.deadline_exceeded() {
        return (context, Err(Error::DeadlineExceeded));
    }
    let message = request.into_inner();
    let access = Access::check(&caller, &message);
    if access == Access::Denied {
        return (context, Err(Error::PermissionDenied));
    }
    let input = match Input::try_from(message) {
        Err(violations) => Err(violations.into()),
        // No conversion accepts a malformed id.
        Ok(_) if access != Access::Permitted => Err(Error::PermissionDenied),
        Ok(input) => Ok((caller, input)),
    };
    (context, input)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::{
        domain::{TenantId, integrity::CheckedTenants},
        grpc::{pb, tenant_access::with_limit},
    };

    #[tokio::test]
    async fn a_stream_whose_work_panics_ends_with_an_error() {
        let handler = Handler::new(Arc::new(()), CallTasks::default());
        let work = |_service, _tenants: CheckedTenants| {
            stream::iter(0..2).map(|number| if number == 0 { Ok(1) } else { panic!("a bug") })
        };
        let mut request = Request::new(pb::CheckIntegrityRequest::default());
        request.extensions_mut().insert(CallContext { caller: Some(Caller::anonymous()), ..CallContext::default() });
        let replies = handler.server_streaming::<_, _, _, i32, _>(with_limit(request), work).unwrap().into_inner();
        let replies: Vec<_> = replies.map(|reply| reply.map_err(|status| status.code())).collect().await;
        assert_eq!(replies, [Ok(1), Err(tonic::Code::Internal)]);
    }

    #[tokio::test]
    async fn a_call_whose_caller_was_not_identified_is_refused() {
        let handler = Handler::new(Arc::new(()), CallTasks::default());
        let mut request = Request::new(pb::SuspendTenantRequest { tenant_id: uuid::Uuid::nil().to_string() });
        request.extensions_mut().insert(CallContext::default());
        let work = |_service, _tenant_id: TenantId| async { Ok(()) };
        let response = handler.unary::<_, _, _, pb::DeletePackageResponse, _>(request, work).await;
        assert_eq!(response.unwrap_err().code(), tonic::Code::Internal);
    }
}
