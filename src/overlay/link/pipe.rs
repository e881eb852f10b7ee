//! One stream as frames in and out: bounded both ways, no opinion about what the frames say.

use super::Refusal;
use super::frame::{Frame, FrameReader};
use crate::overlay::transport::is_not_spoken;
use bytes::{Buf, Bytes};
use futures::{AsyncRead, AsyncWrite};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Frames that may be on their way to the consumer. 16: the reader stays busy, a slow consumer holds at most 1 MiB.
pub(super) const CREDITS: u32 = 16;
/// With so many frames waiting to be written nothing more is read. Four windows: an end that keeps to the protocol
/// never gets there, one that sends and does not read is left waiting.
const MAX_WAITING: usize = 128;
/// Bytes taken from a stream at once.
const READ_BYTES: usize = 4096;
/// How long the last frames may take to leave. 2 s: a close is a courtesy.
const LINGER: Duration = Duration::from_secs(2);

/// What comes out of a pipe.
#[derive(Debug)]
pub(super) enum Out {
    Frame(Frame),
    /// Nothing more comes. After a fault a last word may still be sent.
    Ended(Ended),
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Either side closed it, or the connection failed.
    Closed,
    /// The far end does not know the protocol: said after our first bytes, as they go out with its name.
    NotSpoken,
    /// The far end sent what it must not.
    Fault(Refusal),
}

pub(super) struct Pipe<S> {
    stream: S,
    reader: FrameReader,
    waiting: VecDeque<Bytes>,
    unflushed: bool,
    credits: u32,
    /// The far end broke the protocol: it is not listened to any more.
    deaf: bool,
    /// Until the first frame is whole.
    hello: Option<Pin<Box<Sleep>>>,
    closing: Option<Pin<Box<Sleep>>>,
    /// Writing failed: the far end has perhaps said why, and that may still be read.
    failed: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pipe<S> {
    pub fn new(stream: S, hello_timeout: Duration) -> Self {
        Self {
            stream,
            reader: FrameReader::default(),
            waiting: VecDeque::new(),
            unflushed: false,
            // The hello. The rest is granted when the stream is accepted.
            credits: 1,
            deaf: false,
            hello: Some(Box::pin(tokio::time::sleep(hello_timeout))),
            closing: None,
            failed: None,
        }
    }

    /// Whether the far end has not said its first frame.
    pub fn is_greeting(&self) -> bool {
        self.hello.is_some() && self.closing.is_none()
    }

    /// Queues an encoded frame. The sender keeps to the session's window.
    pub fn send(&mut self, frame: Bytes) {
        if self.closing.is_none() && self.failed.is_none() {
            self.waiting.push_back(frame);
        }
    }

    /// So many more frames may be read.
    pub fn credit(&mut self, frames: u32) {
        self.credits = self.credits.saturating_add(frames).min(CREDITS);
    }

    /// Writes what waits, then ends. Nothing more is read.
    pub fn finish(&mut self) {
        self.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Out> {
        if self.failed.is_none() && self.poll_write(cx).is_err() {
            self.waiting.clear();
            self.unflushed = false;
            self.failed = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        if let Some(linger) = &mut self.failed
            && (self.closing.is_some() || linger.as_mut().poll(cx).is_ready())
        {
            return Poll::Ready(Out::Ended(Ended::Closed));
        }
        if let Some(linger) = &mut self.closing {
            let late = linger.as_mut().poll(cx).is_ready();
            let written = self.waiting.is_empty() && !self.unflushed;
            if late || (written && Pin::new(&mut self.stream).poll_close(cx).is_ready()) {
                return Poll::Ready(Out::Ended(Ended::Closed));
            }
            return Poll::Pending;
        }
        if self.deaf {
            return Poll::Pending;
        }
        if let Some(hello) = &mut self.hello
            && hello.as_mut().poll(cx).is_ready()
        {
            return self.fault(Refusal::HelloTimeout);
        }
        self.poll_read(cx)
    }

    fn fault(&mut self, refusal: Refusal) -> Poll<Out> {
        self.deaf = true;
        Poll::Ready(Out::Ended(Ended::Fault(refusal)))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Out> {
        while self.credits > 0 && self.waiting.len() < MAX_WAITING {
            match self.reader.take() {
                Ok(Some(frame)) => {
                    self.credits -= 1;
                    self.hello = None;
                    return Poll::Ready(Out::Frame(frame));
                }
                Ok(None) => {}
                Err(refusal) => return self.fault(refusal),
            }
            let mut buffer = [0; READ_BYTES];
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(n)) if n > 0 => self.reader.put(&buffer[..n]),
                Poll::Ready(Ok(_)) => return Poll::Ready(Out::Ended(Ended::Closed)),
                Poll::Ready(Err(error)) => return Poll::Ready(Out::Ended(ended_by(&error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        while let Some(front) = self.waiting.front_mut() {
            match Pin::new(&mut self.stream).poll_write(cx, front) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.unflushed = true;
                    front.advance(n);
                    if front.is_empty() {
                        self.waiting.pop_front();
                    }
                }
                Poll::Ready(_) => return Err(()),
                Poll::Pending => break,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => {}
            }
        }
        Ok(())
    }
}

fn ended_by(error: &io::Error) -> Ended {
    if is_not_spoken(error) { Ended::NotSpoken } else { Ended::Closed }
}
