//! One call of an attacker, below gRPC: what it sends, what it reads, and how the server ends it.

use std::{
    future::{pending, poll_fn},
    time::Duration,
};

use h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, StatusCode};
use prost::bytes::Bytes;
use tokio::time::sleep;
use tonic::Code;

use crate::support::http2::{framed, grpc_post, message_prefix, zeros};

/// Pause between two bytes of a message that arrives slowly.
const TRICKLE_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Call {
    pub path: String,
    pub credential: Option<String>,
    /// A header of this size in addition.
    pub padding: usize,
    pub message: Message,
    /// A client that does not read the response lets the server send as much as the initial window permits.
    pub reads_response: bool,
}

/// What follows the headers of a call. Only [`Message::Complete`] ends the request.
#[derive(Debug, Clone)]
pub enum Message {
    Complete(Bytes),
    Absent,
    /// Only the prefix, which announces so many bytes.
    Announced {
        bytes: u32,
    },
    /// A prefix that announces so many bytes, and all of them except the last.
    WithoutLastByte {
        announced: u32,
    },
    /// A prefix that announces so many bytes, which then arrive one at a time.
    ByteByByte {
        announced: u32,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    Status(Code),
    /// A response that is not one of gRPC.
    Http(StatusCode, HeaderMap),
    Reset(Reason),
    /// The connection was closed.
    Disconnected,
}

impl Call {
    pub fn new(path: impl Into<String>, credential: Option<&str>, message: Message) -> Self {
        let credential = credential.map(str::to_owned);
        Self { path: path.into(), credential, padding: 0, message, reads_response: true }
    }

    /// A complete call.
    pub fn complete(path: impl Into<String>, credential: Option<&str>, message: &[u8]) -> Self {
        Self::new(path, credential, Message::Complete(framed(message)))
    }

    pub fn headers(&self) -> Request<()> {
        let mut request = grpc_post(&self.path);
        let headers = request.headers_mut();
        if let Some(credential) = &self.credential {
            headers.insert("authorization", format!("Bearer {credential}").parse().unwrap());
        }
        if self.padding > 0 {
            headers.insert("x-padding", "x".repeat(self.padding).parse().unwrap());
        }
        request
    }

    /// Makes the call and returns its end. Drops `sent` as soon as everything is sent.
    pub async fn make<Token>(&self, requests: SendRequest<Bytes>, sent: Token) -> CallEnd {
        let made = async {
            let mut requests = requests.ready().await?;
            let (response, mut stream) = requests.send_request(self.headers(), false)?;
            tokio::select! {
                end = end_of(response, self.reads_response) => end,
                result = self.send_message(&mut stream, sent) => {
                    result?;
                    unreachable!("a message that is sent waits for the response")
                }
            }
        };
        made.await.unwrap_or_else(|error| match error.reason() {
            Some(reason) if error.is_reset() => CallEnd::Reset(reason),
            _ => CallEnd::Disconnected,
        })
    }

    /// Returns only after an error; the response decides when the call is over.
    async fn send_message<Token>(&self, stream: &mut SendStream<Bytes>, sent: Token) -> Result<(), h2::Error> {
        match &self.message {
            Message::Complete(message) => {
                send(stream, message.clone()).await?;
                stream.send_data(Bytes::new(), true)?;
            }
            Message::Absent => {}
            Message::Announced { bytes } => send(stream, message_prefix(*bytes).to_vec().into()).await?,
            Message::WithoutLastByte { announced } => {
                send(stream, message_prefix(*announced).to_vec().into()).await?;
                send(stream, zeros(announced.saturating_sub(1))).await?;
            }
            Message::ByteByByte { announced } => {
                send(stream, message_prefix(*announced).to_vec().into()).await?;
                drop(sent);
                for _ in 1..*announced {
                    sleep(TRICKLE_INTERVAL).await;
                    send(stream, zeros(1)).await?;
                }
                return pending().await;
            }
        }
        drop(sent);
        pending().await
    }
}

/// Sends as the flow control of the server permits.
async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let Some(capacity) = poll_fn(|context| stream.poll_capacity(context)).await else {
            // The server has ended the stream; its response says why.
            return pending().await;
        };
        stream.send_data(bytes.split_to(capacity?.min(bytes.len())), false)?;
    }
    Ok(())
}

/// Waits for the last byte of the response.
async fn end_of(response: ResponseFuture, reads: bool) -> Result<CallEnd, h2::Error> {
    let mut response = response.await?;
    if response.status() != StatusCode::OK {
        return Ok(CallEnd::Http(response.status(), response.headers().clone()));
    }
    if let Some(code) = status_code(response.headers()) {
        return Ok(CallEnd::Status(code));
    }
    let body = response.body_mut();
    while let Some(data) = body.data().await {
        let length = data?.len();
        if reads {
            body.flow_control().release_capacity(length)?;
        }
    }
    let trailers = body.trailers().await?;
    Ok(CallEnd::Status(trailers.as_ref().and_then(status_code).unwrap_or(Code::Unknown)))
}

fn status_code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}
