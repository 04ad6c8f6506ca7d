//! HTTP/2 frames as bytes, for clients that write without ever reading. An HTTP/2 library always reads.

use std::time::Duration;

use prost::bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    time::{sleep, timeout},
};

use super::running::InPosition;
use crate::support::http2::{Port, framed, zeros};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A write that takes longer waits for a server that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between writes that show whether the server has closed the connection.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Frames of one kind on a connection. As many bytes are within a window of the default size.
const FRAMES: u32 = 20_000;
/// Streams of a connection, below the limit of the server.
const STREAMS: u32 = 250;
const MAX_WINDOW: u32 = i32::MAX as u32;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Data = 0,
    Headers = 1,
    Settings = 4,
    Ping = 6,
    WindowUpdate = 8,
    Continuation = 9,
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind as u8, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Header fields as HPACK literals without indexing, <https://www.rfc-editor.org/rfc/rfc7541#section-6.2.2>. Names and
/// values are shorter than 127 bytes, so that one byte holds their length.
fn header_block(path: &str, credential: Option<&str>) -> Vec<u8> {
    let bearer = credential.map(|credential| format!("Bearer {credential}"));
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "turnkey"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields.into_iter().chain(bearer.as_deref().map(|bearer| ("authorization", bearer))) {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).ok().filter(|&length| length < 127).unwrap();
            block.push(length);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The preface, and settings that let the server send as much as it wants.
fn opening() -> Vec<u8> {
    // SETTINGS_INITIAL_WINDOW_SIZE has the number 4.
    let settings = [&[0, 4], MAX_WINDOW.to_be_bytes().as_slice()].concat();
    let window = (MAX_WINDOW - 65_535).to_be_bytes();
    [PREFACE, &frame(Kind::Settings, 0, 0, &settings), &frame(Kind::WindowUpdate, 0, 0, &window)].concat()
}

fn connection(frames: impl Iterator<Item = Vec<u8>>) -> Bytes {
    opening().into_iter().chain(frames.flatten()).collect()
}

pub fn pings() -> Bytes {
    connection((0..FRAMES).map(|number| frame(Kind::Ping, 0, 0, &u64::from(number).to_be_bytes())))
}

/// Empty SETTINGS frames change nothing, but have to be acknowledged.
pub fn settings() -> Bytes {
    connection((0..FRAMES).map(|_| frame(Kind::Settings, 0, 0, &[])))
}

/// Complete calls, as many as a connection may have at once.
pub fn calls(path: &str, credential: Option<&str>, message: &[u8]) -> Bytes {
    let (headers, message) = (header_block(path, credential), framed(message));
    connection((0..STREAMS).map(|number| {
        let stream = number * 2 + 1;
        let headers = frame(Kind::Headers, END_HEADERS, stream, &headers);
        [headers, frame(Kind::Data, END_STREAM, stream, &message)].concat()
    }))
}

/// A call whose message is followed by frames with `length` bytes each. They are within the windows of the server.
pub fn data_after_the_message(path: &str, credential: Option<&str>, message: &[u8], length: u32) -> Bytes {
    let headers = frame(Kind::Headers, END_HEADERS, 1, &header_block(path, credential));
    let call = [headers, frame(Kind::Data, 0, 1, &framed(message))].concat();
    let data = frame(Kind::Data, 0, 1, &zeros(length));
    connection([call].into_iter().chain((0..FRAMES).map(|_| data.clone())))
}

/// Headers that never end.
pub fn continuations(path: &str) -> Bytes {
    let headers = frame(Kind::Headers, 0, 1, &header_block(path, None));
    let continuation = frame(Kind::Continuation, 0, 1, &header_block(path, None));
    connection([headers].into_iter().chain((0..FRAMES).map(|_| continuation.clone())))
}

/// Sends these bytes on a connection that it never reads, and keeps the connection until the server closes it.
pub async fn write_without_reading(port: Port, bytes: Bytes, in_position: InPosition) {
    let Ok(mut socket) = port.connect().await else { return };
    let mut in_position = Some(in_position);
    let mut rest = &*bytes;
    while !rest.is_empty() {
        match timeout(WRITE_TIMEOUT, socket.write(rest)).await {
            Ok(Ok(written)) => rest = &rest[written..],
            Ok(Err(_closed)) => return,
            Err(_elapsed) => drop(in_position.take()),
        }
    }
    drop(in_position);
    let ping = frame(Kind::Ping, 0, 0, &[0; 8]);
    while !matches!(timeout(WRITE_TIMEOUT, socket.write_all(&ping)).await, Ok(Err(_closed))) {
        sleep(PING_INTERVAL).await;
    }
}
