//! The byte stream of a client that has sent the HTTP/2 preface. hyper has no timeout for the preface, so an idle socket
//! would stay open forever.
//!
//! A client that does not read is not read from either: responses to what it sends would only pile up in memory.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::grpc::Connection;

/// The first bytes of every client, <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Yields the preface again to its reader, then the rest of the stream.
#[derive(Debug)]
pub(super) struct ClientStream<Io> {
    io: Io,
    /// The part of the preface that the reader has not read yet.
    unread_preface: &'static [u8],
    connection: Arc<Connection>,
    is_write_blocked: bool,
}

/// Reads the preface.
pub(super) async fn read_preface<Io: AsyncRead + Unpin>(io: &mut Io) -> io::Result<()> {
    let mut received = [0; PREFACE.len()];
    io.read_exact(&mut received).await?;
    if received != *PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak HTTP/2"));
    }
    Ok(())
}

impl<Io: Unpin> ClientStream<Io> {
    /// `io` is positioned after the preface.
    pub(super) const fn new(io: Io, connection: Arc<Connection>) -> Self {
        Self { io, unread_preface: PREFACE, connection, is_write_blocked: false }
    }

    fn record_write<T>(&mut self, result: Poll<T>) -> Poll<T> {
        if result.is_pending() != self.is_write_blocked {
            self.is_write_blocked = result.is_pending();
            self.connection.set_write_blocked(self.is_write_blocked);
        }
        result
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for ClientStream<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_write_blocked {
            // The write that is pending wakes the connection's task, which reads again after it.
            return Poll::Pending;
        }
        if self.unread_preface.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let (now, later) = self.unread_preface.split_at(self.unread_preface.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.unread_preface = later;
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for ClientStream<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(context, bytes);
        self.record_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.record_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(context);
        self.record_write(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
