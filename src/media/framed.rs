//! Packets of a stream on a stream of bytes, where no UDP gets through: the same packets under the same keys, each behind
//! its length in two bytes (docs/protocol.md "media/1"). A stream of bytes delivers late rather than never, so what has
//! waited here for long is not sent at all, and what comes in bursts is spread by [`spread`].

mod spread;

use super::packet::MAX_PACKET;
use super::stream::{Leg, Stream, lock};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use spread::Spread;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Stands for the far end of the stream of bytes where an address is asked for: nobody else can be there.
pub(super) const PIPE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// How old a packet may get before it is sent: a listener has no use for older ones.
const TOO_OLD: Duration = Duration::from_millis(200);
/// Packets that wait to be sent: more than come within that time.
const MOST_WAITING: usize = 64;

/// A stream of bytes to the far node.
pub trait Duplex: AsyncRead + AsyncWrite + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + 'static> Duplex for S {}

/// Of whatever kind.
pub type BoxDuplex = Pin<Box<dyn Duplex>>;

/// Packets on their way to the stream of bytes, which may be slower than they come.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    more: Notify,
}

impl Outbox {
    /// Takes a packet; the oldest goes when there are too many.
    pub(super) fn push(&self, packet: &[u8], now: Instant) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= MOST_WAITING {
            waiting.pop_front();
        }
        waiting.push_back((now, packet.to_vec()));
        self.more.notify_one();
    }

    /// The next packet that is not too old.
    fn pop(&self, now: Instant) -> Option<Vec<u8>> {
        let mut waiting = lock(&self.waiting);
        loop {
            let (since, packet) = waiting.pop_front()?;
            if now.saturating_duration_since(since) < TOO_OLD {
                return Some(packet);
            }
        }
    }

    async fn next(&self) -> Vec<u8> {
        loop {
            let more = self.more.notified();
            if let Some(packet) = self.pop(Instant::now()) {
                return packet;
            }
            more.await;
        }
    }
}

/// Carries packets both ways until the stream of bytes or the stream of the leg ends.
pub(super) async fn carry(pipe: BoxDuplex, outbox: Arc<Outbox>, leg: Arc<Leg>, index: usize, stream: Weak<Stream>) {
    let (reader, writer) = pipe.split();
    let arrive = |packet: &[u8]| {
        let stream = stream.upgrade()?;
        leg.arrived(index, &stream, (PIPE, PIPE), packet);
        Some(())
    };
    tokio::select! {
        // Either end: the far one opens another stream if it has need of one.
        _ = write(writer, &outbox) => {}
        _ = read(reader, arrive) => {}
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, outbox: &Outbox) -> io::Result<()> {
    let mut frame = Vec::with_capacity(2 + MAX_PACKET);
    loop {
        let packet = outbox.next().await;
        let Ok(length) = u16::try_from(packet.len()) else { continue };
        frame.clear();
        frame.extend(length.to_be_bytes());
        frame.extend(&packet);
        writer.write_all(&frame).await?;
        writer.flush().await?;
    }
}

/// Ends with an error for a length that no packet has, or `Ok` when the leg is gone.
async fn read(mut reader: impl AsyncRead + Unpin, mut arrive: impl FnMut(&[u8]) -> Option<()>) -> io::Result<()> {
    let mut spread = Spread::default();
    let mut buffer = [0; 2 + MAX_PACKET];
    let mut filled = 0;
    loop {
        let due = spread.due();
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = wait => {}
            read = reader.read(&mut buffer[filled..]) => {
                match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => filled += count,
                }
                let mut taken = 0;
                while let Some(length) = buffer[taken..filled].first_chunk::<2>() {
                    let length = usize::from(u16::from_be_bytes(*length));
                    if length == 0 || length > MAX_PACKET {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    let Some(packet) = buffer[taken..filled].get(2..2 + length) else { break };
                    spread.put(packet, Instant::now());
                    taken += 2 + length;
                }
                buffer.copy_within(taken..filled, 0);
                filled -= taken;
            }
        }
        while let Some(packet) = spread.take(Instant::now()) {
            if arrive(&packet).is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Drops(futures::io::Cursor<Vec<u8>>);

    impl AsyncRead for Drops {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            let few = buffer.len().min(7);
            Pin::new(&mut self.0).poll_read(cx, &mut buffer[..few])
        }
    }

    #[test]
    fn what_waited_for_long_is_not_sent_and_what_waits_is_bounded() {
        let (outbox, now) = (Outbox::default(), Instant::now());
        (0..1_000_u32).for_each(|n| outbox.push(&n.to_be_bytes(), now));
        assert_eq!(lock(&outbox.waiting).len(), MOST_WAITING);
        assert_eq!(outbox.pop(now), Some(936_u32.to_be_bytes().to_vec()), "the oldest went");
        outbox.push(b"new", now + TOO_OLD);
        assert_eq!(outbox.pop(now + TOO_OLD), Some(b"new".to_vec()));
        assert_eq!(outbox.pop(now), None);
    }

    #[tokio::test]
    async fn packets_come_out_as_they_went_in_however_they_are_cut() {
        let outbox = Outbox::default();
        let packets: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n; 1 + usize::from(n) * 100]).collect();
        packets.iter().for_each(|packet| outbox.push(packet, Instant::now()));
        let mut wire = Vec::new();
        let writing = write(futures::io::Cursor::new(&mut wire), &outbox);
        // It waits for more in the end.
        assert!(tokio::time::timeout(Duration::from_millis(100), writing).await.is_err());
        let mut heard = Vec::new();
        let reading = read(Drops(futures::io::Cursor::new(wire)), |packet| {
            heard.push(packet.to_vec());
            (heard.len() < 20).then_some(())
        });
        reading.await.unwrap();
        assert_eq!(heard, packets);
    }

    #[tokio::test]
    async fn a_length_that_no_packet_has_ends_the_stream() {
        for bytes in [[0, 0], [0xff, 0xff]] {
            let result = read(futures::io::Cursor::new(bytes.to_vec()), |_| Some(())).await;
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let ended = read(futures::io::Cursor::new(vec![0, 5, 1]), |_| Some(())).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
