//! A connection whose client has sent the HTTP/2 preface. hyper has no timeout for this phase, so an idle socket would
//! stay open forever.

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

/// The first bytes of every client, <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Yields the preface again to its reader, then the rest of the connection.
#[derive(Debug)]
pub struct PrefacedStream<Io> {
    io: Io,
    /// The part of the preface that the reader has not read yet.
    unread_preface: &'static [u8],
    /// Counts the connection until it is closed.
    _permit: OwnedSemaphorePermit,
}

impl<Io: AsyncRead + Unpin> PrefacedStream<Io> {
    pub async fn read_preface(mut io: Io, permit: OwnedSemaphorePermit) -> io::Result<Self> {
        let mut received = [0; PREFACE.len()];
        io.read_exact(&mut received).await?;
        if received != *PREFACE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
        }
        Ok(Self { io, unread_preface: PREFACE, _permit: permit })
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
