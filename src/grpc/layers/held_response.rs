//! A response that holds what its call occupies until its last byte has been written to the socket.
//!
//! The bytes themselves hold it: they are passed on by reference, and are dropped when HTTP/2 has written them. The end
//! of the body would be too early, because what the client does not read waits in the buffers of its stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::FutureExt as _;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tonic::{Status, body::Body};

use super::admission::{CallPermit, Payer};
use crate::{
    error::{Error, Result},
    grpc::{
        connection::{Connection, ResponseInProgress},
        fair_limit::Share,
    },
};

/// The most that is passed on at once. The rest of a response waits here, where its stream can be reset, and not in
/// HTTP/2.
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// Makes a response hold the resources of its call.
#[derive(Debug)]
pub struct ResponseHolder {
    pub permit: CallPermit,
    pub connection: Arc<Connection>,
    /// What is reserved for the response; `None` if it is always small.
    pub bytes: Option<Share<Payer>>,
}

impl ResponseHolder {
    /// # Errors
    /// [`Error::Overloaded`] if the response exceeds the caller's limit and `may_refuse`. Otherwise it is sent all the
    /// same: the caller has to learn what has changed.
    pub fn hold(mut self, response: Response<Body>, may_refuse: bool) -> Result<Response<Body>> {
        let (head, mut body) = response.into_parts();
        // The whole message of a unary call is ready. That of a stream may come later.
        let current = match body.frame().now_or_never() {
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Some(self.hold_first(data, may_refuse)?),
                Err(trailers) => return Ok(Response::from_parts(head, with_trailers(trailers))),
            },
            // A response without a body: an error, whose status is in the headers.
            Some(None) => return Ok(Response::from_parts(head, Body::empty())),
            Some(Some(Err(status))) => return Ok(status.into_http()),
            None => None,
        };
        Ok(Response::from_parts(head, Body::new(HeldBody { current, rest: body, holder: self })))
    }

    fn hold_first(&mut self, data: Bytes, may_refuse: bool) -> Result<Bytes> {
        let mut bytes = self.bytes.take();
        if let Some(share) = &mut bytes {
            // A smaller response keeps what is reserved: it holds the permit for as long.
            let more = data.len().saturating_sub(share.amount());
            if !share.try_grow(more) {
                if may_refuse {
                    return Err(Error::Overloaded);
                }
                share.set(data.len());
            }
        }
        Ok(self.hold_data(data, bytes))
    }

    fn hold_data(&self, data: Bytes, bytes: Option<Share<Payer>>) -> Bytes {
        let response = self.connection.begin_response();
        Bytes::from_owner(HeldBytes { data, _bytes: bytes, _response: response, _permit: Arc::clone(&self.permit) })
    }
}

fn with_trailers(trailers: Frame<Bytes>) -> Body {
    let only = std::iter::once(Ok::<_, Status>(trailers));
    Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(only)))
}

/// Bytes of a response, and what they hold.
struct HeldBytes {
    data: Bytes,
    _bytes: Option<Share<Payer>>,
    _response: ResponseInProgress,
    _permit: CallPermit,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

struct HeldBody {
    /// The data that comes next.
    current: Option<Bytes>,
    rest: Body,
    holder: ResponseHolder,
}

impl HeldBody {
    /// Returns the beginning of the data, and keeps the rest for the next frame.
    fn first_frame(&mut self, mut data: Bytes) -> Frame<Bytes> {
        if data.len() > MAX_FRAME_BYTES {
            self.current = Some(data.split_off(MAX_FRAME_BYTES));
        }
        Frame::data(data)
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        if let Some(data) = self.current.take() {
            return Poll::Ready(Some(Ok(self.first_frame(data))));
        }
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            // Data is a message of a stream. Backpressure bounds how many of them wait.
            frame.map(|frame| match frame.into_data() {
                Ok(data) => {
                    let data = self.holder.hold_data(data, None);
                    self.first_frame(data)
                }
                Err(trailers) => trailers,
            })
        }))
    }
}
