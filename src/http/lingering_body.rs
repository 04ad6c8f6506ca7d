//! Reads the rest of a request body after the request was refused, for clients of HTTP/1.
//!
//! Such a client sends the whole body before it reads the response. A server that closes the connection meanwhile resets
//! it, and the client never sees the response that says why (RFC 9112, section 9.6). HTTP/2 has no such problem.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tokio::{runtime::Handle, time::timeout};
use tonic::{Status, body::Body};

/// The rest of a larger body is not read. Twice the largest message.
const MAX_DISCARDED_BYTES: usize = 8 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes the body of an HTTP/1 request discard what is left of it when it is dropped.
pub(super) fn wrap(request: Request<Body>) -> Request<Body> {
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return request;
    }
    // Such a client has not begun to send, and does not if it is refused first.
    let waits = request.headers().contains_key(header::EXPECT);
    request.map(|body| Body::new(LingeringBody { unread: Some(body), has_begun: !waits }))
}

struct LingeringBody {
    /// `None` at the end.
    unread: Option<Body>,
    has_begun: bool,
}

impl http_body::Body for LingeringBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.has_begun = true;
        let Some(body) = &mut self.unread else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.unread = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.unread.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.unread.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for LingeringBody {
    fn drop(&mut self) {
        let Some(body) = self.unread.take().filter(|body| self.has_begun && !body.is_end_stream()) else { return };
        // Without a runtime the connection is gone, too.
        if let Ok(runtime) = Handle::try_current() {
            // A connection has one at most: its next request begins after this body.
            runtime.spawn(timeout(DISCARD_TIMEOUT, discard(body)));
        }
    }
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while discarded <= MAX_DISCARDED_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}
