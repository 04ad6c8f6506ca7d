//! Admits calls, within limits in all and for each caller. A call is admitted once its message has arrived in full, and
//! holds its permit until its work has ended and the last byte of its response has been written. Calls beyond a limit
//! fail at once instead of waiting.
//!
//! Health and reflection have limits of their own and are charged to the client's address: a flood of them affects no
//! other call, and a busy server is not considered dead.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use http::Request;
use http_body_util::{BodyStream, Full, StreamBody};
use prost::bytes::Bytes;
use tonic::body::Body;

use super::{
    call_context::{CallContext, trace_id},
    held_response::ResponseHolder,
    middleware::{CallFuture, InnerService, Middleware, take_ready},
    request_message::{Framing, MessageLimits, PREFIX_BYTES},
    transcoding::{Transcoding, with_prefix},
};
use crate::{
    domain::Caller,
    error::{Error, Result},
    grpc::{
        auth::is_public,
        connection::{CallInProgress, Connection, PeerAddress},
        fair_limit::{FairLimit, Share},
        message_cost::count_nested_messages,
        status,
    },
};

const HEALTH: &str = "/grpc.health.v1.Health/";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
pub const MAX_HEALTH_MESSAGE_BYTES: usize = 1024;
const MAX_MESSAGE_BYTES: usize = 256 * 1024;
const MAX_BATCH_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// What a call reserves for its response before it begins, and for each item of a batch, so that a caller who does not
/// read its responses is refused before any work is done.
const RESERVED_RESPONSE_BYTES: usize = 4 * 1024;
const RESERVED_ITEM_BYTES: usize = 1024;
/// The items of a batch.
const MAX_RESERVED_ITEMS: usize = 500;

/// Whom a call is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Payer {
    Caller(Arc<str>),
    Address(PeerAddress),
}

/// What a call occupies, until its work has ended and its response has been written.
#[derive(Debug)]
pub struct HeldByCall {
    _permit: Option<Share<Payer>>,
    _message: Option<Share<Payer>>,
    _call: CallInProgress,
}

/// Held by the call's task, which may outlive it, and by its response. The last clone ends it.
pub type CallPermit = Arc<HeldByCall>;

/// All limits on the calls of one address of the server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission {
    pub messages: MessageLimits,
    pub calls: FairLimit<Payer>,
    pub response_bytes: FairLimit<Payer>,
    pub health_messages: MessageLimits,
    pub health_watches: FairLimit<Payer>,
    pub reflection_streams: FairLimit<Payer>,
    /// How long a client of reflection may send messages.
    pub reflection_timeout: Duration,
}

impl Admission {
    /// Waits for the message of the call and reserves what the call needs.
    async fn admit(&self, request: &mut Request<Body>) -> Result<ResponseHolder> {
        let extensions = request.extensions();
        let missing_layer = || Error::internal("the call did not pass the layers before admission");
        let connection = Arc::clone(extensions.get::<Arc<Connection>>().ok_or_else(missing_layer)?);
        let address = Payer::Address(connection.peer);
        let path = request.uri().path();
        let overloaded = || Error::Overloaded;
        let (permit, message, response_bytes) = if path.starts_with(HEALTH) {
            let is_watch = path == HEALTH_WATCH;
            let (message, _) = receive(&self.health_messages, request, &address, MAX_HEALTH_MESSAGE_BYTES).await?;
            let watch = is_watch.then(|| self.health_watches.try_acquire(&address, 1).ok_or_else(overloaded));
            (watch.transpose()?, Some(message), None)
        } else if is_public(path) {
            let stream = self.reflection_streams.try_acquire(&address, 1).ok_or_else(overloaded)?;
            limit_time(request, self.reflection_timeout);
            (Some(stream), None, None)
        } else {
            let caller = extensions.get::<CallContext>().and_then(|context| context.caller.as_ref());
            let payer = Payer::Caller(Arc::clone(caller.map(Caller::name).ok_or_else(missing_layer)?));
            let max_bytes = if is_batch(path) { MAX_BATCH_MESSAGE_BYTES } else { MAX_MESSAGE_BYTES };
            let (message, nested) = receive(&self.messages, request, &payer, max_bytes).await?;
            let reserved_bytes = RESERVED_RESPONSE_BYTES + nested.min(MAX_RESERVED_ITEMS) * RESERVED_ITEM_BYTES;
            let response_bytes = self.response_bytes.try_acquire(&payer, reserved_bytes).ok_or_else(overloaded)?;
            (Some(self.calls.try_acquire(&payer, 1).ok_or_else(overloaded)?), Some(message), Some(response_bytes))
        };
        let call = connection.begin_call();
        let permit = Arc::new(HeldByCall { _permit: permit, _message: message, _call: call });
        request.extensions_mut().get_or_insert_default::<CallContext>().permit = Some(Arc::clone(&permit));
        Ok(ResponseHolder { permit, connection, bytes: response_bytes })
    }

    /// Receives the body of a request that is not a call itself, and reserves what its response needs. A call that it
    /// leads to is admitted on its own.
    pub(super) async fn receive(
        &self,
        requests: &FairLimit<Payer>,
        payer: &Payer,
        connection: Arc<Connection>,
        body: Body,
    ) -> Result<(Bytes, ResponseHolder)> {
        let (received, share) = self.messages.receive(body, Framing::None, payer, MAX_MESSAGE_BYTES).await?;
        let bytes = self.response_bytes.try_acquire(payer, RESERVED_RESPONSE_BYTES).ok_or(Error::Overloaded)?;
        let permit = requests.try_acquire(payer, 1).ok_or(Error::Overloaded)?;
        let held = HeldByCall { _permit: Some(permit), _message: Some(share), _call: connection.begin_call() };
        Ok((received, ResponseHolder { permit: Arc::new(held), connection, bytes: Some(bytes) }))
    }
}

/// Replaces the body of the request, which is still arriving, with the complete message. Returns how many messages are
/// nested in it.
async fn receive(
    limits: &MessageLimits,
    request: &mut Request<Body>,
    payer: &Payer,
    max_bytes: usize,
) -> Result<(Share<Payer>, usize)> {
    let body = std::mem::take(request.body_mut());
    let (message, share) = match request.extensions().get::<Transcoding>() {
        None => limits.receive(body, Framing::Grpc, payer, max_bytes).await?,
        Some(Transcoding(transcoder)) => {
            let (received, mut share) = limits.receive(body, Framing::None, payer, max_bytes).await?;
            let message = transcoder.decode_request(received)?;
            if message.len() > max_bytes {
                return Err(Error::MessageTooLarge { max_bytes });
            }
            share.set(message.len());
            (with_prefix(&message), share)
        }
    };
    let encoded = message.get(PREFIX_BYTES..).unwrap_or_default();
    let nested = count_nested_messages(request.uri().path(), encoded).map_err(|_| Error::TooManyNestedMessages)?;
    *request.body_mut() = Body::new(Full::new(message));
    Ok((share, nested))
}

/// Ends the body of a request that has any number of messages.
fn limit_time(request: &mut Request<Body>, timeout: Duration) {
    let body = BodyStream::new(std::mem::take(request.body_mut()));
    *request.body_mut() = Body::new(StreamBody::new(body.take_until(Box::pin(tokio::time::sleep(timeout)))));
}

fn is_batch(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|rpc| rpc.starts_with("Batch"))
}

/// Whether a call of this RPC changes nothing, and can be refused after its work is done.
fn is_read(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|rpc| rpc.starts_with("Get") || rpc.starts_with("List"))
}

impl Middleware for Arc<Admission> {
    type Future<S: InnerService> = CallFuture;

    fn call<S: InnerService>(&self, inner: &mut S, mut request: Request<Body>) -> CallFuture {
        let admission = Self::clone(self);
        let mut inner = take_ready(inner);
        Box::pin(async move {
            let trace_id = trace_id(&request);
            let is_read = is_read(request.uri().path());
            let transcoding = request.extensions().get::<Transcoding>().cloned();
            let result = match admission.admit(&mut request).await {
                Ok(holder) => {
                    let response = inner.call(request).await?;
                    let response = match transcoding {
                        None => response,
                        Some(transcoding) => response.map(|body| transcoding.encode_body(body, trace_id)),
                    };
                    holder.hold(response, is_read)
                }
                Err(error) => Err(error),
            };
            Ok(result.unwrap_or_else(|error| status::from_error(error, trace_id).into_http()))
        })
    }
}
