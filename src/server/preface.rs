//! A connection whose peer has begun to speak HTTP/2: before that, nothing else would ever close it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tonic::transport::server::Connected;

/// What every client says first, <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Says the preface once more to whoever reads from here on.
#[derive(Debug)]
pub struct PrefacedStream<Io> {
    io: Io,
    /// Of the preface, what is still to be said.
    unread_preface: &'static [u8],
    /// The connection's place among all.
    _place: OwnedSemaphorePermit,
}

impl<Io: AsyncRead + Unpin> PrefacedStream<Io> {
    /// Waits for the preface.
    ///
    /// # Errors
    /// Where something else is said; those of the connection.
    pub async fn read_preface(mut io: Io, place: OwnedSemaphorePermit) -> io::Result<Self> {
        let mut received = [0; PREFACE.len()];
        io.read_exact(&mut received).await?;
        if received != *PREFACE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no HTTP/2"));
        }
        Ok(Self { io, unread_preface: PREFACE, _place: place })
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for PrefacedStream<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread_preface.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let (now, later) = self.unread_preface.split_at(self.unread_preface.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.unread_preface = later;
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for PrefacedStream<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl<Io: Connected> Connected for PrefacedStream<Io> {
    type ConnectInfo = Io::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}
