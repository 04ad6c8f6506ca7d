//! The byte stream of a client whose first bytes have been read, which tell the version of HTTP. hyper has no timeout
//! for them, so an idle socket would stay open forever.
//!
//! A client that does not read is not read from either: responses to what it sends would only pile up in memory.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::grpc::Connection;

/// The first bytes of every HTTP/2 client, <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

/// What was read of a stream to determine its version of HTTP: the preface, or the beginning of an HTTP/1 request.
#[derive(Debug)]
pub(super) struct FirstBytes {
    bytes: [u8; PREFACE.len()],
    length: usize,
}

impl FirstBytes {
    /// Reads the preface, or up to the first byte that differs from it.
    pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut first = Self { bytes: [0; PREFACE.len()], length: 0 };
        while first.length < PREFACE.len() && first.version() == HttpVersion::Http2 {
            match io.read(&mut first.bytes[first.length..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => first.length += count,
            }
        }
        Ok(first)
    }

    pub fn version(&self) -> HttpVersion {
        if PREFACE.starts_with(&self.bytes[..self.length]) { HttpVersion::Http2 } else { HttpVersion::Http1 }
    }
}

/// Yields the first bytes again to its reader, then the rest of the stream.
#[derive(Debug)]
pub(super) struct ClientStream<Io> {
    io: Io,
    first: FirstBytes,
    /// How many of the first bytes the reader has read again.
    replayed: usize,
    connection: Arc<Connection>,
    is_write_blocked: bool,
}

impl<Io: Unpin> ClientStream<Io> {
    /// `io` is positioned after the first bytes.
    pub(super) const fn new(io: Io, first: FirstBytes, connection: Arc<Connection>) -> Self {
        Self { io, first, replayed: 0, connection, is_write_blocked: false }
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
        let unread = self.first.length - self.replayed;
        if unread == 0 {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let end = self.replayed + unread.min(buffer.remaining());
        buffer.put_slice(&self.first.bytes[self.replayed..end]);
        self.replayed = end;
        Poll::Ready(Ok(()))
    }
}

/// Not vectored, so that h2 copies a message of up to 1 KiB behind its headers and writes both, its trailers and the
/// responses of other streams at once. For a vectored stream it does so only up to 256 bytes, and a response with one
/// byte more takes two system calls of its own.
impl<Io: AsyncWrite + Unpin> AsyncWrite for ClientStream<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(context, bytes);
        self.record_write(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(context);
        self.record_write(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn version(mut sent: &[u8]) -> io::Result<(HttpVersion, usize)> {
        let first = FirstBytes::read(&mut sent).await?;
        Ok((first.version(), first.length))
    }

    #[tokio::test]
    async fn the_preface_is_http_2_and_everything_else_http_1() {
        assert_eq!(version(PREFACE).await.unwrap(), (HttpVersion::Http2, 24));
        for http_1 in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"POST /x HTTP/1.1\r\n", b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n--"] {
            assert_eq!(version(http_1).await.unwrap().0, HttpVersion::Http1);
        }
        assert!(version(&PREFACE[..23]).await.is_err() && version(b"").await.is_err());
    }
}
