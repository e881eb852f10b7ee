//! What a frame is: `u32 big-endian length || Frame`, canonical protobuf, at most 64 KiB. Bytes in, values out.

use super::{MAX_FRAME_BYTES, MAX_HELLO_BYTES, MAX_ICE_BYTES, Refusal};
use crate::wire::pb;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Longest text in a `Close`, bytes: a sentence.
const MAX_WORDS_BYTES: usize = 128;

/// A frame that was read strictly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub seq: u64,
    pub ack: u64,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Hello(Bytes),
    Sip(Bytes),
    Ice(Bytes),
    Ping,
    Close(Close),
    /// No body: acknowledges, no more.
    Ack,
}

impl Body {
    /// Bytes of the message in it.
    pub fn len(&self) -> usize {
        match self {
            Self::Hello(bytes) | Self::Sip(bytes) | Self::Ice(bytes) => bytes.len(),
            Self::Close(close) => close.words.len(),
            Self::Ping | Self::Ack => 0,
        }
    }
}

/// Why an end lets go of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: CloseCode,
    pub words: String,
}

/// What a program does with a `Close`; the words are for people. Frozen numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// The link is no longer wanted.
    Done,
    /// Bytes that are not `sip/1`.
    Malformed,
    NoSuchUser,
    NotProven,
    Clock,
    Version,
    /// Both ends opened at once, and the other stream goes on.
    Simultaneous,
    UnknownSession,
    Full,
    /// A code of a later version.
    Other(u32),
}

impl CloseCode {
    fn number(self) -> u32 {
        match self {
            Self::Done => 1,
            Self::Malformed => 2,
            Self::NoSuchUser => 3,
            Self::NotProven => 4,
            Self::Clock => 5,
            Self::Version => 6,
            Self::Simultaneous => 7,
            Self::UnknownSession => 8,
            Self::Full => 9,
            Self::Other(n) => n,
        }
    }

    fn from_number(n: u32) -> Self {
        match n {
            1 => Self::Done,
            2 => Self::Malformed,
            3 => Self::NoSuchUser,
            4 => Self::NotProven,
            5 => Self::Clock,
            6 => Self::Version,
            7 => Self::Simultaneous,
            8 => Self::UnknownSession,
            9 => Self::Full,
            other => Self::Other(other),
        }
    }
}

impl Frame {
    pub fn ack(ack: u64) -> Self {
        Self { seq: 0, ack, body: Body::Ack }
    }

    pub fn ping(ack: u64) -> Self {
        Self { seq: 0, ack, body: Body::Ping }
    }

    pub fn hello(hello: &pb::Hello) -> Self {
        Self { seq: 0, ack: 0, body: Body::Hello(hello.encode_to_vec().into()) }
    }

    pub fn close(code: CloseCode, words: impl Into<String>) -> Self {
        Self { seq: 0, ack: 0, body: Body::Close(Close { code, words: words.into() }) }
    }

    /// Length word and frame.
    pub fn encode(self) -> Bytes {
        let body = match self.body {
            Body::Hello(b) => Some(pb::frame::Body::Hello(b)),
            Body::Sip(b) => Some(pb::frame::Body::Sip(b)),
            Body::Ice(b) => Some(pb::frame::Body::Ice(b)),
            Body::Ping => Some(pb::frame::Body::Ping(pb::Ping {})),
            Body::Close(c) => Some(pb::frame::Body::Close(pb::Close { code: c.code.number(), words: c.words })),
            Body::Ack => None,
        };
        let frame = pb::Frame { seq: self.seq, ack: self.ack, body };
        let length = frame.encoded_len();
        let mut out = BytesMut::with_capacity(4 + length);
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        out.put_slice(&frame.encode_to_vec());
        out.freeze()
    }

    /// Reads one frame without its length word.
    fn decode(bytes: Bytes) -> Result<Self, Refusal> {
        let frame = pb::Frame::decode(bytes.clone()).map_err(|_| Refusal::Malformed)?;
        // One encoding per value: what does not encode back to itself had unknown fields, repeated fields, odd order or
        // long varints.
        if frame.encoded_len() != bytes.len() || frame.encode_to_vec() != bytes {
            return Err(Refusal::Malformed);
        }
        let body = match frame.body {
            Some(pb::frame::Body::Hello(b)) => Body::Hello(b),
            Some(pb::frame::Body::Sip(b)) => Body::Sip(b),
            Some(pb::frame::Body::Ice(b)) if b.len() > MAX_ICE_BYTES => return Err(Refusal::TooLarge),
            Some(pb::frame::Body::Ice(b)) => Body::Ice(b),
            Some(pb::frame::Body::Ping(_)) => Body::Ping,
            Some(pb::frame::Body::Close(c)) => {
                if c.words.len() > MAX_WORDS_BYTES || c.words.chars().any(char::is_control) {
                    return Err(Refusal::Malformed);
                }
                Body::Close(Close { code: CloseCode::from_number(c.code), words: c.words })
            }
            None => Body::Ack,
        };
        let sequenced = matches!(body, Body::Sip(_) | Body::Ice(_));
        if sequenced != (frame.seq > 0) {
            return Err(Refusal::Malformed);
        }
        Ok(Self { seq: frame.seq, ack: frame.ack, body })
    }
}

/// Cuts a stream of bytes into frames. Holds at most one frame and one read more.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    held: BytesMut,
    greeted: bool,
}

impl FrameReader {
    /// Adds what was read.
    pub fn put(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// The stream is beyond repair.
    pub fn take(&mut self) -> Result<Option<Frame>, Refusal> {
        let Some(word) = self.held.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*word)).map_err(|_| Refusal::TooLarge)?;
        if length > if self.greeted { MAX_FRAME_BYTES } else { MAX_HELLO_BYTES } {
            return Err(Refusal::TooLarge);
        }
        if length == 0 {
            return Err(Refusal::Malformed);
        }
        if self.held.len() < 4 + length {
            return Ok(None);
        }
        self.held.advance(4);
        let frame = Frame::decode(self.held.split_to(length).freeze())?;
        self.greeted = true;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<Frame>, Refusal> {
        let mut reader = FrameReader::default();
        reader.put(bytes);
        reader.take()
    }

    fn sip(seq: u64, text: &'static str) -> Frame {
        Frame { seq, ack: 7, body: Body::Sip(Bytes::from_static(text.as_bytes())) }
    }

    #[test]
    fn refuses_what_is_too_long_before_it_is_there() {
        assert_eq!(read(&[0, 1, 0, 1]), Err(Refusal::TooLarge));
        assert_eq!(read(&[0xff; 4]), Err(Refusal::TooLarge));
        assert_eq!(read(&u32::try_from(MAX_HELLO_BYTES + 1).unwrap().to_be_bytes()), Err(Refusal::TooLarge));
        let mut reader = FrameReader::default();
        reader.put(&sip(1, "x").encode());
        reader.take().unwrap().unwrap();
        reader.put(&u32::try_from(MAX_FRAME_BYTES).unwrap().to_be_bytes());
        assert_eq!(reader.take(), Ok(None));
    }

    #[test]
    fn refuses_encodings_that_are_not_canonical() {
        assert_eq!(read(&[0, 0, 0, 0]), Err(Refusal::Malformed), "empty");
        assert_eq!(read(&[0, 0, 0, 3, 0x10, 0x81, 0x00]), Err(Refusal::Malformed), "long varint");
        assert_eq!(read(&[0, 0, 0, 4, 0x10, 1, 0x10, 2]), Err(Refusal::Malformed), "twice");
        assert_eq!(read(&[0, 0, 0, 4, 0x10, 1, 0x78, 2]), Err(Refusal::Malformed), "unknown");
        assert_eq!(read(&[0, 0, 0, 2, 0x10, 1]), Ok(Some(Frame::ack(1))));
    }

    #[test]
    fn a_message_needs_a_number_and_others_have_none() {
        assert_eq!(read(&sip(0, "x").encode()), Err(Refusal::Malformed));
        assert_eq!(read(&Frame { seq: 1, ack: 0, body: Body::Ping }.encode()), Err(Refusal::Malformed));
    }

    #[test]
    fn close_words_are_short_and_printable() {
        assert!(read(&Frame::close(CloseCode::Full, "no room").encode()).is_ok());
        assert_eq!(read(&Frame::close(CloseCode::Full, "a\u{1b}[31m").encode()), Err(Refusal::Malformed));
        assert_eq!(read(&Frame::close(CloseCode::Full, "a".repeat(129)).encode()), Err(Refusal::Malformed));
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_the_same(seq in 1u64.., ack in any::<u64>(), message in prop::collection::vec(any::<u8>(), 0..2000)) {
            let frame = Frame { seq, ack, body: Body::Sip(message.into()) };
            let bytes = frame.clone().encode();
            let mut reader = FrameReader::default();
            for byte in bytes.iter() {
                prop_assert_eq!(reader.take().unwrap(), None);
                reader.put(&[*byte]);
            }
            prop_assert_eq!(reader.take().unwrap(), Some(frame));
        }

        #[test]
        fn never_panics_and_reads_one_way(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(frame) = Frame::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(&frame.encode()[4..], &bytes[..]);
            }
        }
    }
}
