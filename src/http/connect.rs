//! Every RPC by the Connect protocol (<https://connectrpc.com/docs/protocol/>): unary calls, and streams of responses.
//!
//! Messages are not compressed, which the protocol permits. GET is not supported: it puts the request, which can
//! contain secrets, into the URL.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body::Frame;
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;
use tonic::{Code, Status, body::Body};

use super::{
    call::{self, no_status},
    failure::Failure,
    json::{self, Rpc},
    refusal::{ConnectError, Dialect, Refusal},
};
use crate::{
    error::{Error, Result},
    grpc::layers::{InnerService, transcoding::Transcoder},
};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const STREAM_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
const MAX_TIMEOUT_DIGITS: usize = 10;

/// In a stream each message follows its flags and its length.
const ENVELOPE_BYTES: usize = 5;
const END_STREAM: u8 = 0b10;

/// How messages are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Json,
    Proto,
}

/// The content types of an RPC, with their codecs.
fn content_types(is_stream: bool) -> [(&'static str, Codec); 2] {
    if is_stream {
        [("application/connect+json", Codec::Json), ("application/connect+proto", Codec::Proto)]
    } else {
        [("application/json", Codec::Json), ("application/proto", Codec::Proto)]
    }
}

pub(super) async fn respond(calls: impl InnerService, rpc: &'static Rpc, request: Request<Body>) -> Response<Body> {
    if request.method() != Method::POST {
        return Refusal::method_not_allowed("POST").into_response(Dialect::Connect);
    }
    let is_stream = rpc.is_server_streaming;
    let types = content_types(is_stream);
    let media_type = media_type(request.headers());
    let Some((content_type, codec)) = types.into_iter().find(|(name, _)| media_type.as_deref() == Some(name)) else {
        let supported = if is_stream {
            "application/connect+json, application/connect+proto"
        } else {
            "application/json, application/proto"
        };
        return Refusal::unsupported_media_type(supported).into_response(Dialect::Connect);
    };
    let result = match parse_headers(request.headers(), is_stream) {
        Ok(timeout_ms) => {
            let transcoder = Arc::new(ConnectTranscoder { rpc, codec });
            Ok(call::send(calls, &rpc.path, request, timeout_ms, transcoder).await)
        }
        Err(error) => Err(Failure::of(error)),
    };
    let message = match result {
        Ok(response) if is_stream => Ok(Body::new(stream_body(response))),
        Ok(response) => call::unary_message(response).await,
        // In a stream an error has the status 200, too.
        Err(failure) if is_stream => Ok(Body::new(StreamBody::End(end_with(&failure)))),
        Err(failure) => Err(failure),
    };
    match message {
        Ok(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            response
        }
        Err(failure) => failure.into_response(Dialect::Connect, &[]),
    }
}

/// Returns the content type in lower case, without parameters; `None` if it has another charset than UTF-8.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    let (media_type, parameters) = text.split_once(';').unwrap_or((&text, ""));
    let charset = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
    let is_utf8 = charset.is_none_or(|charset| charset.trim_matches('"') == "utf-8");
    is_utf8.then(|| media_type.trim().to_owned())
}

/// Checks the headers of the protocol and returns the timeout in milliseconds.
fn parse_headers(headers: &HeaderMap, is_stream: bool) -> Result<Option<u64>> {
    if headers.get(PROTOCOL_VERSION).is_some_and(|version| version != "1") {
        return Err(Error::MalformedMessage("Connect-Protocol-Version must be 1".to_owned()));
    }
    check_encoding(headers, &if is_stream { STREAM_ENCODING } else { header::CONTENT_ENCODING })?;
    let Some(timeout) = headers.get(TIMEOUT) else { return Ok(None) };
    let digits = timeout.to_str().ok().filter(|text| text.len() <= MAX_TIMEOUT_DIGITS);
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let timeout_ms = digits.and_then(|text| text.parse().ok());
    timeout_ms.map(Some).ok_or_else(|| {
        Error::MalformedMessage("Connect-Timeout-Ms must be a number of milliseconds of at most 10 digits".to_owned())
    })
}

/// # Errors
/// [`Error::UnsupportedEncoding`] if the message is compressed.
fn check_encoding(headers: &HeaderMap, name: &HeaderName) -> Result<()> {
    match headers.get(name) {
        Some(encoding) if encoding != "identity" => {
            Err(Error::UnsupportedEncoding(format!("unsupported {name}: the supported encoding is identity")))
        }
        _ => Ok(()),
    }
}

struct ConnectTranscoder {
    rpc: &'static Rpc,
    codec: Codec,
}

impl Transcoder for ConnectTranscoder {
    fn rpc_system(&self) -> &'static str {
        "connectrpc"
    }

    fn decode_request(&self, body: Bytes) -> Result<Bytes> {
        let message = if self.rpc.is_server_streaming { open_envelope(body)? } else { body };
        match self.codec {
            Codec::Json => json::to_protobuf(&self.rpc.request, &message),
            Codec::Proto => Ok(message),
        }
    }

    fn encode_response(&self, message: Bytes) -> Result<Bytes> {
        let encoded = match self.codec {
            Codec::Json => json::from_protobuf(&self.rpc.response, message)?,
            Codec::Proto => message,
        };
        Ok(if self.rpc.is_server_streaming { envelope(0, &encoded) } else { encoded })
    }
}

fn envelope(flags: u8, message: &[u8]) -> Bytes {
    let mut enveloped = BytesMut::with_capacity(ENVELOPE_BYTES + message.len());
    enveloped.put_u8(flags);
    // Responses have at most a few MiB.
    enveloped.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    enveloped.put_slice(message);
    enveloped.freeze()
}

/// Returns the only message of a request.
fn open_envelope(mut body: Bytes) -> Result<Bytes> {
    let malformed =
        || Error::MalformedMessage("the request must have one message in an envelope, not compressed".to_owned());
    let &[flags, a, b, c, d] = body.first_chunk::<ENVELOPE_BYTES>().ok_or_else(malformed)?;
    let message = body.split_off(ENVELOPE_BYTES);
    let is_whole = usize::try_from(u32::from_be_bytes([a, b, c, d])) == Ok(message.len());
    if flags == 0 && is_whole { Ok(message) } else { Err(malformed()) }
}

fn stream_body(response: Response<Body>) -> StreamBody {
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) => StreamBody::End(end_of(status)),
        None => StreamBody::Messages(body),
    }
}

fn end_of(status: Status) -> Bytes {
    match status.code() {
        Code::Ok => envelope(END_STREAM, b"{}"),
        _ => end_with(&Failure::new(status)),
    }
}

/// The last envelope of a stream that failed.
fn end_with(failure: &Failure) -> Bytes {
    let headers = failure.headers();
    let metadata = headers.iter().filter_map(|(name, value)| Some((name.as_str(), [value.to_str().ok()?]))).collect();
    let end = failure.with_connect_error(|error| serde_json::to_vec(&EndStream { error, metadata }));
    // Fails only for maps with keys that are not text.
    envelope(END_STREAM, &end.unwrap_or_default())
}

#[derive(Serialize)]
struct EndStream<'a> {
    error: &'a ConnectError<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, [&'a str; 1]>,
}

/// The messages of a stream, which are in envelopes already, and its end in place of gRPC's trailers.
enum StreamBody {
    Messages(Body),
    End(Bytes),
    Ended,
}

impl StreamBody {
    fn end(&mut self, end: Bytes) -> Frame<Bytes> {
        *self = Self::Ended;
        Frame::data(end)
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let end = match &mut *self {
            Self::Messages(messages) => match ready!(Pin::new(messages).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => Status::from_header_map(&trailers).map(end_of),
                    Err(data) => return Poll::Ready(Some(Ok(data))),
                },
                Some(Err(status)) => Some(end_of(status)),
                None => None,
            },
            Self::End(end) => Some(std::mem::take(end)),
            Self::Ended => return Poll::Ready(None),
        };
        let end = end.unwrap_or_else(|| end_with(&no_status()));
        Poll::Ready(Some(Ok(self.end(end))))
    }
}
