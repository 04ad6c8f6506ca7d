//! Receives the message of a call before the call begins: in full, within a time, a size and a budget of bytes. Until
//! then a call occupies nothing but that budget.

use std::time::Duration;

use futures_util::FutureExt as _;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use prost::bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use tonic::body::Body;

use crate::{
    error::{Error, Result},
    grpc::fair_limit::{FairLimit, Share},
};

use super::admission::Payer;

/// Each gRPC message begins with a compression flag and its length ("gRPC over HTTP2", Length-Prefixed-Message).
pub const PREFIX_BYTES: usize = 5;

/// How the body of a request contains its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After a prefix that announces its length.
    Grpc,
    /// The body is the message.
    None,
}

impl Framing {
    const fn prefix_bytes(self) -> usize {
        match self {
            Self::Grpc => PREFIX_BYTES,
            Self::None => 0,
        }
    }
}

/// The limits on messages that are being received.
#[derive(Debug, Clone)]
pub struct MessageLimits {
    pub timeout: Duration,
    /// Messages that have arrived in part.
    pub incomplete: FairLimit<Payer>,
    pub bytes: FairLimit<Payer>,
}

impl MessageLimits {
    /// Receives a message of at most `max_bytes`, with its prefix. The bytes count as long as the share is held.
    ///
    /// # Errors
    /// [`Error::MessageTooLarge`], as soon as the prefix or the header Content-Length announces it;
    /// [`Error::DeadlineExceeded`] if the message does not arrive in time; [`Error::Overloaded`]; [`Error::Cancelled`]
    /// if the client disconnects.
    pub async fn receive(
        &self,
        body: Body,
        framing: Framing,
        payer: &Payer,
        max_bytes: usize,
    ) -> Result<(Bytes, Share<Payer>)> {
        let share = self.bytes.try_acquire(payer, 0).ok_or(Error::Overloaded)?;
        let mut message = IncomingMessage { body, framing, received: BytesMut::new(), share, max_bytes };
        // Usually the message has arrived with the headers of its call.
        if let Some(result) = message.receive().now_or_never() {
            result?;
        } else {
            let _incomplete = self.incomplete.try_acquire(payer, 1).ok_or(Error::Overloaded)?;
            timeout(self.timeout, message.receive()).await.map_err(|_elapsed| Error::DeadlineExceeded)??;
        }
        Ok((message.received.freeze(), message.share))
    }
}

struct IncomingMessage {
    body: Body,
    framing: Framing,
    received: BytesMut,
    share: Share<Payer>,
    max_bytes: usize,
}

impl IncomingMessage {
    /// Receives until the client ends the stream. It can be called again after it was dropped.
    async fn receive(&mut self) -> Result<()> {
        self.check_size()?;
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|_disconnected| Error::Cancelled)?;
            // Trailers of a request have no meaning in gRPC.
            let Ok(data) = frame.into_data() else { continue };
            if !self.share.try_grow(data.len()) {
                return Err(Error::Overloaded);
            }
            // A copy, because a small piece of data would keep the whole read buffer of the connection alive.
            self.received.extend_from_slice(&data);
            self.check_size()?;
        }
        Ok(())
    }

    fn check_size(&self) -> Result<()> {
        let announced = match (self.framing, self.received.first_chunk::<PREFIX_BYTES>()) {
            (Framing::Grpc, None) => 0,
            (Framing::Grpc, Some([_flag, length @ ..])) => u32::from_be_bytes(*length).into(),
            (Framing::None, _) => self.body.size_hint().lower(),
        };
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        let received = self.received.len().saturating_sub(self.framing.prefix_bytes());
        if announced.max(received) > self.max_bytes {
            return Err(Error::MessageTooLarge { max_bytes: self.max_bytes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::stream::{self, StreamExt as _};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use tonic::Status;

    use super::*;

    const MAX: usize = 100;

    fn limits() -> MessageLimits {
        MessageLimits {
            timeout: Duration::from_secs(5),
            incomplete: FairLimit::new(2, 1),
            bytes: FairLimit::new(400, 200),
        }
    }

    fn payer(last: u8) -> Payer {
        Payer::Address(IpAddr::from([192, 0, 2, last]).into())
    }

    fn frame(announced: u32, sent: usize) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend(announced.to_be_bytes());
        frame.resize(PREFIX_BYTES + sent, 7);
        frame
    }

    /// A body that never ends.
    fn unfinished(sent: Vec<u8>) -> Body {
        let frames = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(sent)))]).chain(stream::pending());
        Body::new(StreamBody::new(frames))
    }

    #[tokio::test]
    async fn a_complete_message_is_received_and_counts_until_its_share_is_dropped() {
        let limits = limits();
        let message = frame(3, 3);
        let body = || Body::new(Full::new(Bytes::from(message.clone())));
        let (received, share) = limits.receive(body(), Framing::Grpc, &payer(1), MAX).await.unwrap();
        assert_eq!((&received[..], share.amount()), (&message[..], message.len()));
        assert!(limits.bytes.try_acquire(&payer(1), 200).is_none());
        drop(share);
        assert!(limits.bytes.try_acquire(&payer(1), 200).is_some());
        assert!(limits.receive(Body::empty(), Framing::Grpc, &payer(1), MAX).await.unwrap().0.is_empty());
    }

    #[tokio::test]
    async fn a_message_that_announces_too_much_is_refused_at_its_prefix() {
        let refused = limits().receive(unfinished(frame(101, 0)), Framing::Grpc, &payer(1), MAX).await;
        assert!(matches!(refused, Err(Error::MessageTooLarge { max_bytes: MAX })));
        let refused = limits().receive(unfinished(frame(1, 101)), Framing::Grpc, &payer(1), MAX).await;
        assert!(matches!(refused, Err(Error::MessageTooLarge { .. })), "more than announced");
        // Without a prefix, the same bytes are the message.
        let refused = limits().receive(unfinished(vec![b'{'; MAX + 1]), Framing::None, &payer(1), MAX).await;
        assert!(matches!(refused, Err(Error::MessageTooLarge { max_bytes: MAX })));
        let body = Body::new(Full::new(Bytes::from(vec![0xff; MAX])));
        assert_eq!(limits().receive(body, Framing::None, &payer(1), MAX).await.unwrap().0.len(), MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_arrive_ends_after_its_time_and_occupies_only_its_callers_share() {
        let limits = limits();
        let first = payer(1);
        let late = limits.receive(unfinished(frame(100, 99)), Framing::Grpc, &first, MAX);
        let meanwhile = async {
            let refused = limits.receive(unfinished(frame(100, 0)), Framing::Grpc, &payer(1), MAX).await;
            assert!(matches!(refused, Err(Error::Overloaded)), "the caller has an incomplete message already");
            limits
                .receive(Body::new(Full::new(Bytes::from(frame(90, 90)))), Framing::Grpc, &payer(1), MAX)
                .await
                .unwrap();
            let other = limits.receive(unfinished(frame(100, 99)), Framing::Grpc, &payer(2), MAX).await;
            assert!(matches!(other, Err(Error::DeadlineExceeded)));
        };
        let (late, ()) = tokio::join!(late, meanwhile);
        assert!(matches!(late, Err(Error::DeadlineExceeded)));
    }

    #[tokio::test]
    async fn a_message_beyond_the_budget_of_its_caller_is_refused() {
        let limits = limits();
        let _held = limits.bytes.try_acquire(&payer(1), 150).unwrap();
        let message = || Body::new(Full::new(Bytes::from(frame(90, 90))));
        assert!(matches!(limits.receive(message(), Framing::Grpc, &payer(1), MAX).await, Err(Error::Overloaded)));
        limits.receive(message(), Framing::Grpc, &payer(2), MAX).await.unwrap();
    }
}
