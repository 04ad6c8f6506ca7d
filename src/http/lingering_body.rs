//! Reads the rest of a request body after the request was refused, for clients of HTTP/1.
//!
//! Such a client sends the whole body before it reads the response. A server that closes the connection meanwhile
//! resets it, and the client never sees the response that says why (RFC 9112, section 9.6). HTTP/2 has no such problem.

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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    const FRAME_BYTES: usize = 64 * 1024;

    /// A request with a body of this many frames, and the number of frames that were read.
    fn request(version: Version, frames: usize) -> (Request<Body>, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&read);
        let frame = Bytes::from(vec![0; FRAME_BYTES]);
        let frames = stream::iter((0..frames).map(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Status>(Frame::data(frame.clone()))
        }));
        let request = Request::builder().version(version).body(Body::new(StreamBody::new(frames))).unwrap();
        (request, read)
    }

    /// Drops the request and returns how many frames of its body were read at the end.
    async fn read_after_drop(request: Request<Body>, read: Arc<AtomicUsize>) -> usize {
        drop(request);
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        read.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn the_rest_of_a_body_is_read_for_a_client_of_http_1_only() {
        for (version, expected) in [(Version::HTTP_10, 5), (Version::HTTP_11, 5), (Version::HTTP_2, 0)] {
            let (request, read) = request(version, 5);
            assert_eq!(read_after_drop(wrap(request), read).await, expected, "{version:?}");
        }
    }

    #[tokio::test]
    async fn at_most_8_mib_of_a_body_are_read() {
        let (request, read) = request(Version::HTTP_11, 1_000);
        assert_eq!(read_after_drop(wrap(request), read).await, MAX_DISCARDED_BYTES / FRAME_BYTES + 1);
    }

    #[tokio::test]
    async fn the_body_of_a_client_that_waits_for_permission_is_read_only_if_it_has_begun() {
        for has_begun in [false, true] {
            let (mut request, read) = request(Version::HTTP_11, 5);
            request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
            let mut request = wrap(request);
            if has_begun {
                request.body_mut().frame().await.unwrap().unwrap();
            }
            assert_eq!(read_after_drop(request, read).await, if has_begun { 5 } else { 0 });
        }
    }

    #[tokio::test]
    async fn a_body_keeps_its_size_and_its_end() {
        let mut body = wrap(Request::new(Body::new(
            http_body_util::Full::new(Bytes::from_static(b"body")).map_err(|never| match never {}),
        )))
        .into_body();
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(!body.is_end_stream());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "body");
        assert!(body.is_end_stream() && body.frame().await.is_none());
        assert!(wrap(Request::new(Body::empty())).body().is_end_stream());
    }
}
