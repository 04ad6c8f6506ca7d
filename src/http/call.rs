//! Makes a call: builds the gRPC request, sends it through the layers, and separates the message of the response from
//! its status.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tonic::{Code, Status, body::Body};

use super::failure::Failure;
use crate::{
    error::Error,
    grpc::layers::{
        InnerService,
        transcoding::{Transcoder, Transcoding},
    },
};

/// What a call takes from the headers of its request. Others have a meaning in gRPC that they do not have here.
const FORWARDED_HEADERS: [HeaderName; 3] =
    [header::AUTHORIZATION, HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// `grpc-timeout` has at most eight digits.
const MAX_TIMEOUT_MS: u64 = 99_999_999;

/// Sends the call through the layers of gRPC.
pub(super) async fn send(
    mut calls: impl InnerService,
    rpc_path: &'static str,
    request: Request<Body>,
    timeout_ms: Option<u64>,
    transcoder: Arc<dyn Transcoder>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut headers = HeaderMap::new();
    for name in FORWARDED_HEADERS {
        for value in head.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(timeout_ms) = timeout_ms
        && let Ok(value) = HeaderValue::try_from(format!("{}m", timeout_ms.min(MAX_TIMEOUT_MS)))
    {
        headers.insert(GRPC_TIMEOUT, value);
    }
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(rpc_path);
    *request.headers_mut() = headers;
    *request.extensions_mut() = head.extensions;
    request.extensions_mut().insert(Transcoding(transcoder));
    let Ok(response) = calls.call(request).await;
    response
}

/// Returns the message of a response of a unary call, in the form of its transcoder.
pub(super) async fn unary_message(response: Response<Body>) -> Result<Body, Failure> {
    let (head, mut body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Err(without_message(status));
    }
    // The message of a unary call comes before its status, so the status is OK if there is a message.
    match body.frame().await {
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => Ok(Body::new(MessageBody { first: Some(data), rest: body })),
            Err(frame) => {
                let status = frame.trailers_ref().and_then(Status::from_header_map);
                Err(status.map_or_else(no_status, without_message))
            }
        },
        Some(Err(status)) => Err(Failure::new(status)),
        None => Err(no_status()),
    }
}

fn without_message(status: Status) -> Failure {
    if status.code() == Code::Ok { no_status() } else { Failure::new(status) }
}

pub(super) fn no_status() -> Failure {
    Failure::of(Error::internal("the response has neither a message nor a status"))
}

/// The data of a response. Its trailers are read to the end, so that the call's metrics are recorded, and left out.
struct MessageBody {
    first: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for MessageBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.is_trailers() => None,
            frame => frame,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn the_message_of_a_response_has_no_trailers() {
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        let frames = [Frame::data(Bytes::from_static(b"message")), Frame::trailers(trailers)];
        let body = Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Status>))));
        let message = unary_message(Response::new(body)).await.unwrap().collect().await.unwrap();
        assert!(message.trailers().is_none());
        assert_eq!(message.to_bytes(), "message");
    }
}
