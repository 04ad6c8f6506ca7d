//! Converts messages between gRPC and another protocol, for calls that do not come by gRPC. `admission` does it: a
//! request is received within the same limits before it is converted, and a response is converted before its bytes are
//! counted.
//!
//! What surrounds the messages (status, headers, trailers) stays that of gRPC here. The module `http` converts it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use http_body::Frame;
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use tonic::{Status, body::Body};

use super::request_message::PREFIX_BYTES;
use crate::{
    error::{Error, Result},
    grpc::status,
    telemetry::trace::TraceId,
};

/// The messages of one call.
pub trait Transcoder: Send + Sync {
    /// The protocol, as `rpc.system.name` of traces and metrics
    /// (<https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/>).
    fn rpc_system(&self) -> &'static str {
        "http"
    }

    /// Converts the body of the request to the protobuf message of the RPC.
    fn decode_request(&self, body: Bytes) -> Result<Bytes>;

    /// Converts a protobuf message of the response to the bytes that the client gets.
    fn encode_response(&self, message: Bytes) -> Result<Bytes>;
}

/// The transcoder of a call, as an extension of its request.
#[derive(Clone)]
pub struct Transcoding(pub Arc<dyn Transcoder>);

impl Transcoding {
    /// Converts the messages of a response.
    pub(super) fn encode_body(self, grpc: Body, trace_id: TraceId) -> Body {
        Body::new(EncodedBody { grpc, transcoder: self.0, trace_id, has_failed: false })
    }
}

/// Returns the message as gRPC sends it: not compressed, after its length.
pub(super) fn with_prefix(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    // Longer messages have been refused.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

struct EncodedBody {
    grpc: Body,
    transcoder: Arc<dyn Transcoder>,
    trace_id: TraceId,
    has_failed: bool,
}

impl EncodedBody {
    /// Converts the messages of a frame. tonic sends only complete messages in one, and does not compress them.
    fn encode(&self, mut data: Bytes) -> Result<Bytes> {
        let cut_off = || Error::internal("a frame of the response ends within a message");
        let mut encoded = BytesMut::new();
        loop {
            let &[_flag, a, b, c, d] = data.first_chunk::<PREFIX_BYTES>().ok_or_else(cut_off)?;
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let message = data.split_off(PREFIX_BYTES);
            if message.len() < length {
                return Err(cut_off());
            }
            data = message;
            let rest = data.split_off(length);
            let converted = self.transcoder.encode_response(data)?;
            data = rest;
            match (data.is_empty(), encoded.is_empty()) {
                // The usual case, without a copy.
                (true, true) => return Ok(converted),
                (is_last, _) => {
                    encoded.extend_from_slice(&converted);
                    if is_last {
                        return Ok(encoded.freeze());
                    }
                }
            }
        }
    }
}

impl http_body::Body for EncodedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.grpc).poll_frame(context));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        Poll::Ready(Some(match self.encode(data) {
            Ok(encoded) => Ok(Frame::data(encoded)),
            Err(error) => {
                self.has_failed = true;
                let mut trailers = HeaderMap::new();
                status::from_error(error, self.trace_id).add_header(&mut trailers).map(|()| Frame::trailers(trailers))
            }
        }))
    }
}
