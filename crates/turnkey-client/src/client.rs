//! The client: calls with retries, streams, and calls by path.

use std::{future::Future, time::Duration};

use prost::bytes::{Buf as _, BufMut as _, Bytes};
use tokio::time::{Instant, timeout};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    service::interceptor::InterceptedService,
    transport::Channel,
};
use tonic_prost::ProstCodec;
use uuid::Uuid;

use crate::{
    Authorization, Error, RetryPolicy, StreamingRpc, UnaryRpc,
    pb::{package_catalog_client::PackageCatalogClient, tenant_provisioning_client::TenantProvisioningClient},
};

/// A connection that adds the credential to each call.
pub type AuthorizedChannel = InterceptedService<Channel, Authorization>;

/// Calls the RPCs of a server. Cheap to clone; the clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: AuthorizedChannel,
    retry: RetryPolicy,
}

impl Client {
    pub(crate) fn new(channel: Channel, authorization: Authorization, retry: RetryPolicy) -> Self {
        Self { channel: InterceptedService::new(channel, authorization), retry }
    }

    /// The same connection with another policy.
    #[must_use]
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        Self { retry, ..self.clone() }
    }

    /// Calls an RPC and repeats the call as the policy says. Each attempt has the same request id: the request's own,
    /// or a random one where the request can have one and has none.
    ///
    /// A call whose outcome is unknown is repeated only if that is safe ([`crate::Rpc::IS_REPEATABLE`], and no etag).
    /// Other calls are repeated only if the server did nothing, because it was overloaded or calls conflicted.
    pub async fn send<R: UnaryRpc>(&self, mut request: R) -> Result<R::Response, Error> {
        request.set_request_ids(|| Uuid::new_v4().to_string());
        let is_repeatable = R::IS_REPEATABLE && !request.has_etag();
        let deadline = Instant::now() + self.retry.total_timeout;
        let mut attempt = 1;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let error = match self.attempt(request.clone(), self.retry.attempt_timeout.min(remaining)).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let may_repeat = error.is_retryable() && (is_repeatable || error.is_without_effect());
            let delay = self.retry.delay(attempt, error.retry_delay());
            if !may_repeat || attempt >= self.retry.max_attempts || Instant::now() + delay >= deadline {
                return Err(error);
            }
            tracing::warn!(rpc = R::PATH, attempt, ?delay, "Call failed, retrying: {error}");
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }

    async fn attempt<R: UnaryRpc>(&self, request: R, limit: Duration) -> Result<R::Response, Error> {
        let mut request = Request::new(request);
        request.set_timeout(limit);
        let (path, codec) = (PathAndQuery::from_static(R::PATH), ProstCodec::<R, R::Response>::default());
        let call = async { self.ready().await?.unary(request, path, codec).await };
        within(limit, call).await.map(tonic::Response::into_inner)
    }

    /// Calls an RPC with a stream of responses. A stream that ends with an error is not repeated: the caller knows
    /// where to continue.
    pub async fn stream<R: StreamingRpc>(&self, request: R) -> Result<Responses<R::Response>, Error> {
        let path = PathAndQuery::from_static(R::PATH);
        let codec = ProstCodec::<R, R::Response>::default();
        let stream = self.ready().await?.server_streaming(Request::new(request), path, codec).await?;
        Ok(Responses(stream.into_inner()))
    }

    /// Calls the RPC at this path with an encoded message, once. For tools that know the API by its descriptors only.
    pub async fn send_raw(&self, path: &str, message: Bytes, limit: Option<Duration>) -> Result<RawResponses, Error> {
        let path: PathAndQuery = path.parse().map_err(|_invalid| Status::unimplemented("the path is malformed"))?;
        let mut request = Request::new(message);
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        let call = async { self.ready().await?.server_streaming(request, path, RawCodec).await };
        let stream = match limit {
            Some(limit) => within(limit, call).await?,
            None => call.await?,
        };
        Ok(RawResponses(stream.into_inner()))
    }

    /// The generated client, without retries.
    pub fn provisioning(&self) -> TenantProvisioningClient<AuthorizedChannel> {
        TenantProvisioningClient::new(self.channel.clone())
    }

    /// The generated client, without retries.
    pub fn catalog(&self) -> PackageCatalogClient<AuthorizedChannel> {
        PackageCatalogClient::new(self.channel.clone())
    }

    async fn ready(&self) -> Result<Grpc<AuthorizedChannel>, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(client)
    }
}

/// The channel's own timeout begins when it is connected. This one includes that time.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Error> {
    timeout(limit, call).await.map_err(|_elapsed| Error::deadline_exceeded())?.map_err(Error::from)
}

/// The responses of a stream.
#[derive(Debug)]
pub struct Responses<Message>(Streaming<Message>);

/// The encoded responses of a call by path; of a unary RPC there is one.
#[derive(Debug)]
pub struct RawResponses(Streaming<Bytes>);

impl<Message> Responses<Message> {
    /// Returns the next response, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        Ok(self.0.message().await?)
    }
}

impl RawResponses {
    /// Returns the next response, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.0.message().await?)
    }
}

/// Passes messages through as they are encoded.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
