//! Circuits that this node passes on go no faster than [`RATE`] in each direction (SECURITY §4.10). libp2p's relay copies from
//! stream to stream and has no rate; so a stream that a peer opened is slowed down once this node has agreed on it to be a
//! hop. The peer that called is slowed, and by flow control whoever answers it.

use crate::admission::{Bucket, Rate};
use futures::{AsyncRead, AsyncWrite};
use libp2p::relay::HOP_PROTOCOL_NAME;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes: 256 kbit/s, two calls whose voice finds no other way, and four seconds of that at once.
const RATE: Rate = Rate { per_second: 32_000.0, burst: 128_000.0 };

/// Not worth less than this, bytes: 32 ms.
const AT_ONCE: f64 = 1_024.0;

/// Longer than any frame of multistream-select, bytes.
const MAX_WORDS: usize = 32 * 1_024;

/// A stream.
pub(in crate::overlay) struct Paced<T> {
    inner: T,
    course: Course,
}

enum Course {
    /// What this node answered to the peer's proposals, as far as it is not a whole frame yet.
    Agreeing(Vec<u8>),
    Free,
    Slow(Box<Pace>),
}

struct Pace {
    read: Side,
    write: Side,
}

struct Side {
    bucket: Bucket,
    wait: Option<Pin<Box<Sleep>>>,
}

impl<T> Paced<T> {
    /// A stream that a peer opened.
    pub(in crate::overlay) fn theirs(inner: T) -> Self {
        Self { inner, course: Course::Agreeing(Vec::new()) }
    }

    /// A stream that this node opened.
    pub(in crate::overlay) fn ours(inner: T) -> Self {
        Self { inner, course: Course::Free }
    }
}

impl Course {
    /// Our own words, in which no peer has a say: a peer may propose what it likes before it comes to the point.
    fn said(&mut self, bytes: &[u8]) {
        let Self::Agreeing(words) = self else { return };
        words.extend_from_slice(bytes);
        while let Ok(length) = prost::decode_length_delimiter(words.as_slice()) {
            let begin = prost::length_delimiter_len(length);
            let Some(frame) = words.get(begin..begin.saturating_add(length)) else { break };
            if frame.strip_suffix(b"\n") == Some(HOP_PROTOCOL_NAME.as_ref().as_bytes()) {
                return *self = Self::Slow(Box::default());
            }
            // Else it is a list of what this node speaks, "na", or the name of multistream-select itself.
            let one = frame.starts_with(b"/") && frame.iter().filter(|byte| **byte == b'\n').count() == 1;
            if one && !frame.starts_with(b"/multistream/") {
                return *self = Self::Free;
            }
            words.drain(..begin + length);
        }
        if words.len() > MAX_WORDS {
            *self = Self::Slow(Box::default());
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        let side = || Side { bucket: Bucket::full(RATE, Instant::now().into_std()), wait: None };
        Self { read: side(), write: side() }
    }
}

impl Side {
    /// How many bytes may go now.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            let has = self.bucket.tokens(RATE, Instant::now().into_std());
            if has >= AT_ONCE {
                return Poll::Ready(has as usize);
            }
            self.wait = Some(Box::pin(sleep(Duration::from_secs_f64((AT_ONCE - has) / RATE.per_second))));
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let inner = Pin::new(&mut this.inner);
        let Course::Slow(pace) = &mut this.course else { return inner.poll_read(cx, buf) };
        let most = ready!(pace.read.poll_allowed(cx)).min(buf.len());
        let read = ready!(inner.poll_read(cx, &mut buf[..most]))?;
        pace.read.bucket.spend(read);
        Poll::Ready(Ok(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let inner = Pin::new(&mut this.inner);
        let Course::Slow(pace) = &mut this.course else {
            let written = ready!(inner.poll_write(cx, buf))?;
            this.course.said(&buf[..written]);
            return Poll::Ready(Ok(written));
        };
        let most = ready!(pace.write.poll_allowed(cx)).min(buf.len());
        let written = ready!(inner.poll_write(cx, &buf[..most]))?;
        pace.write.bucket.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, AsyncWriteExt};

    /// Gives and takes whatever is asked.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(words: &[u8]) -> Vec<u8> {
        let mut framed = Vec::new();
        prost::encode_length_delimiter(words.len(), &mut framed).unwrap();
        framed.extend_from_slice(words);
        framed
    }

    /// How long a mebibyte takes in and out, seconds, after this node said so in pieces of `chunk` bytes.
    async fn took(mut stream: Paced<Endless>, said: &[&[u8]], chunk: usize) -> [f64; 2] {
        let said: Vec<u8> = said.iter().flat_map(|words| frame(words)).collect();
        for piece in said.chunks(chunk) {
            stream.write_all(piece).await.unwrap();
        }
        let mut mebibyte = vec![0; 1 << 20];
        let start = Instant::now();
        stream.read_exact(&mut mebibyte).await.unwrap();
        let read = start.elapsed();
        // What was not written in the meantime may be written at once.
        stream.write_all(&mebibyte).await.unwrap();
        [read, start.elapsed() - read].map(|time| time.as_secs_f64())
    }

    const HEAD: &[u8] = b"/multistream/1.0.0\n";
    const HOP: &[u8] = b"/libp2p/circuit/relay/0.2.0/hop\n";

    #[tokio::test(start_paused = true)]
    async fn what_is_passed_on_is_slow_and_all_else_is_not() {
        // What "ls" is answered with, here beginning with a name of 47 bytes, which is a slash.
        let name = format!("/{}\n", "x".repeat(45));
        let list = [frame(name.as_bytes()), frame(HOP), b"\n".to_vec()].concat();
        assert_eq!(list[0], b'/');
        let whole = ((1 << 20) as f64 - RATE.burst) / RATE.per_second;
        for chunk in [1, 2, 19, 20, 21, 1_000] {
            for said in [&[HEAD, HOP][..], &[HEAD, b"na\n", b"na\n", HOP], &[HEAD, &list, &list, HOP]] {
                for took in took(Paced::theirs(Endless), said, chunk).await {
                    assert!((took - whole).abs() < 0.1, "{took} s instead of {whole}");
                }
            }
            for said in [&[HEAD, b"/ipfs/ping/1.0.0\n"][..], &[HEAD, b"na\n", b"/x\n", HOP]] {
                assert_eq!(took(Paced::theirs(Endless), said, chunk).await, [0.0; 2]);
            }
            assert_eq!(took(Paced::ours(Endless), &[HEAD, HOP], chunk).await, [0.0; 2]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn words_that_make_no_sense_are_not_kept_for_ever() {
        let mut stream = Paced::theirs(Endless);
        stream.write_all(&[0x80; MAX_WORDS + 1]).await.unwrap();
        assert!(matches!(stream.course, Course::Slow(_)));
    }
}
