//! Questions and replies of `store/1` on streams: a length, then so many bytes, each way once. What the bytes are is
//! judged where they are used, so that each refusal has a reason. What others make us hold, questions that wait for the
//! actor and replies that wait for their readers, has one bound for all of them together (SECURITY §4.10).

use super::OverlayConfig;
use super::behaviour::protocol;
use crate::dht::{MAX_QUESTION_BYTES, MAX_REPLY_BYTES};
use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::{self, Config, ProtocolSupport};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// From the question to the last byte of the reply. Behind it a connection is in doubt; the engine gives a peer up
/// after the same time (SECURITY §4.4).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Questions under way on one connection, both directions together; a muxer has 64 streams.
const MAX_STREAMS: usize = 48;

/// The same of a protocol of few questions.
const MAX_SMALL_STREAMS: usize = 8;

/// Questions of ours under way at one peer, so that it may have as many at us.
pub(super) const WINDOW: usize = MAX_STREAMS / 2;

/// Bytes of questions and of replies that wait, each.
const MAX_PENDING_BYTES: usize = 8 * 1024 * 1024;

/// FIND and FETCH with a card are shorter. They have a room of their own: who sends the first twelve KiB of a thousand
/// records and then nothing must not keep others from asking.
const SHORT: usize = 1_024;
const MAX_SHORT_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that are read at once, and that a message may take before it has a room.
const STEP: usize = 512;

pub(super) type Behaviour = request_response::Behaviour<Codec>;
pub(super) type Event = request_response::Event<Parcel, Parcel>;
pub(super) type ReplyChannel = request_response::ResponseChannel<Parcel>;

/// A message on its way, and the room that it takes.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) bytes: Bytes,
    _room: Option<Room>,
}

impl From<Bytes> for Parcel {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, _room: None }
    }
}

/// Bytes that may wait. Cloneable; clones are one.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<AtomicUsize>);

/// Some of them, given back when dropped.
#[derive(Debug)]
struct Room(Pool, usize);

impl Room {
    fn grow(&mut self, bytes: usize) -> Option<()> {
        let mut more = self.0.take(bytes)?;
        self.1 += std::mem::take(&mut more.1);
        Some(())
    }
}

impl Pool {
    fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> Option<Room> {
        let left = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).ok()?;
        Some(Room(self.clone(), bytes))
    }

    /// `None`: no room for it now.
    pub(super) fn parcel(&self, bytes: Bytes) -> Option<Parcel> {
        let room = self.take(bytes.len())?;
        Some(Parcel { bytes, _room: Some(room) })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.0.fetch_add(self.1, Ordering::Relaxed);
    }
}

/// Room for replies.
pub(super) fn replies() -> Pool {
    Pool::new(MAX_PENDING_BYTES)
}

pub(super) fn behaviour(config: &OverlayConfig) -> Behaviour {
    let settings = Config::default().with_request_timeout(REQUEST_TIMEOUT).with_max_concurrent_streams(MAX_STREAMS);
    let name = protocol(config, "store/1");
    request_response::Behaviour::with_codec(Codec::new(), [(name, ProtocolSupport::Full)], settings)
}

/// Who only asks.
pub(super) fn client(name: StreamProtocol) -> Behaviour {
    let settings = Config::default().with_request_timeout(REQUEST_TIMEOUT);
    request_response::Behaviour::with_codec(Codec::new(), [(name, ProtocolSupport::Outbound)], settings)
}

/// Another protocol of the same framing, with a question and a reply of so many bytes at most.
pub(super) fn small(
    name: StreamProtocol,
    support: ProtocolSupport,
    (max_question, max_reply): (usize, usize),
    timeout: Duration,
) -> Behaviour {
    let settings = Config::default().with_request_timeout(timeout).with_max_concurrent_streams(MAX_SMALL_STREAMS);
    let codec = Codec { max_question, max_reply, ..Codec::new() };
    request_response::Behaviour::with_codec(codec, [(name, support)], settings)
}

/// `u32 length || bytes`, big-endian.
#[derive(Clone, Debug)]
pub(super) struct Codec {
    max_question: usize,
    max_reply: usize,
    short: Pool,
    long: Pool,
}

impl Codec {
    fn new() -> Self {
        Self {
            max_question: MAX_QUESTION_BYTES,
            max_reply: MAX_REPLY_BYTES,
            short: Pool::new(MAX_SHORT_BYTES),
            long: Pool::new(MAX_PENDING_BYTES),
        }
    }

    fn pool(&self, length: usize) -> Option<&Pool> {
        Some(if length <= SHORT { &self.short } else { &self.long })
    }
}

/// Reads one message. One that is too long comes out empty, which is no message either: it is counted where those are.
/// `pool`: by its length, where it takes room; for what has come, not for what is promised.
async fn read<'a>(
    io: &mut (impl AsyncRead + Unpin + Send),
    max: usize,
    pool: impl FnOnce(usize) -> Option<&'a Pool>,
) -> io::Result<Parcel> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > max {
        return Ok(Bytes::new().into());
    }
    let mut room = pool(length).map(|pool| Room(pool.clone(), 0));
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let have = bytes.len();
        bytes.resize(length.min(have + STEP), 0);
        let came = io.read(&mut bytes[have..]).await?;
        if came == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(have + came);
        if let Some(room) = &mut room {
            room.grow(came).ok_or(io::ErrorKind::OutOfMemory)?;
        }
    }
    Ok(Parcel { bytes: bytes.into(), _room: room })
}

async fn write(io: &mut (impl AsyncWrite + Unpin + Send), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    io.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Parcel;
    type Response = Parcel;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Parcel>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.max_question, |length| self.pool(length)).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Parcel>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, self.max_reply, |_| None).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, question: Parcel) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &question.bytes).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, reply: Parcel) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &reply.bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    fn reads(bytes: &[u8]) -> Result<Bytes, io::ErrorKind> {
        let read = block_on(read(&mut Cursor::new(bytes), 5, |_| None));
        read.map(|parcel| parcel.bytes).map_err(|error| error.kind())
    }

    #[test]
    fn reads_what_was_written_and_no_more() {
        let mut written = Vec::new();
        block_on(write(&mut written, b"hello")).unwrap();
        assert_eq!(reads(&written), Ok(Bytes::from_static(b"hello")));
        assert_eq!(reads(&written[..8]), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(reads(&written[..3]), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(reads(&[0, 0, 0, 6, 1, 2, 3, 4, 5, 6]), Ok(Bytes::new()), "too long");
        assert_eq!(reads(&[0xff; 4]), Ok(Bytes::new()), "not waited for");
    }

    #[test]
    fn what_waits_is_bounded_and_given_back() {
        let codec = Codec::new();
        let message = Bytes::from(vec![0; MAX_QUESTION_BYTES]);
        let waiting: Vec<Parcel> = std::iter::from_fn(|| codec.long.parcel(message.clone())).collect();
        assert_eq!(waiting.len(), MAX_PENDING_BYTES / MAX_QUESTION_BYTES);
        let framed = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let asked = |bytes: &[u8]| {
            let framed = framed(bytes);
            block_on(read(&mut Cursor::new(&framed), MAX_QUESTION_BYTES, |length| codec.pool(length)))
        };
        assert_eq!(asked(&message).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        let short = asked(&[7; 300]).unwrap();
        assert_eq!(short.bytes[..], [7; 300], "questions that carry no record have a room of their own");
        assert_eq!(codec.short.0.load(Ordering::Relaxed), MAX_SHORT_BYTES - 300);
        drop((waiting, short));
        assert_eq!(codec.long.0.load(Ordering::Relaxed), MAX_PENDING_BYTES, "what was read of it too");
        assert_eq!(codec.short.0.load(Ordering::Relaxed), MAX_SHORT_BYTES);
    }

    #[test]
    fn a_promise_of_bytes_takes_no_room() {
        let codec = Codec::new();
        let promise = [&(MAX_QUESTION_BYTES as u32).to_be_bytes()[..], &[1; 700]].concat();
        let mut stalled = stalled_after(promise);
        let reading = read(&mut stalled, MAX_QUESTION_BYTES, |length| codec.pool(length));
        futures::pin_mut!(reading);
        assert!(futures::FutureExt::now_or_never(&mut reading).is_none(), "the rest does not come");
        assert_eq!(codec.long.0.load(Ordering::Relaxed), MAX_PENDING_BYTES - 700);
    }

    /// Bytes that are there, and then none for ever.
    fn stalled_after(bytes: Vec<u8>) -> impl AsyncRead + Unpin + Send {
        struct Stalled(Cursor<Vec<u8>>);
        impl AsyncRead for Stalled {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                into: &mut [u8],
            ) -> std::task::Poll<io::Result<usize>> {
                if self.0.position() == self.0.get_ref().len() as u64 {
                    return std::task::Poll::Pending;
                }
                std::pin::Pin::new(&mut self.0).poll_read(cx, into)
            }
        }
        Stalled(Cursor::new(bytes))
    }
}
