//! The first look at raw bytes, before anything is parsed: size, UTF-8, line endings, start line, the mandatory headers
//! once each, one consistent Content-Length, a CSeq that fits the method. What passes here is safe to give to the
//! parser; what fails has a counted reason and, where RFC 3261 §8.2 allows one, an answer. Also the stream framer
//! (RFC 3261 §18.3, RFC 5626 §3.5.1 pings).

use bytes::{Buf, Bytes, BytesMut};

/// Largest datagram: what 8,192-byte buffers of phones can take; larger ones are cut by some stacks.
pub(super) const MAX_DATAGRAM: usize = 8_192;
/// Largest message on a stream or trunk (a `sip/1` frame holds 64 KiB).
pub(super) const MAX_STREAM_MESSAGE: usize = 65_536;
/// Start line and headers. Real ones are under 3 KiB; 16 KiB leaves room for long Via chains.
const MAX_HEAD: usize = 16_384;
const MAX_LINE: usize = 4_096;
const MAX_HEADERS: usize = 96;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Label of the counter.
    pub reason: &'static str,
    /// What to answer if the sender can be found in the bytes; `None` = silence.
    pub answer: Option<(u16, &'static str)>,
}

const fn silent(reason: &'static str) -> Refused {
    Refused { reason, answer: None }
}

const fn bad(reason: &'static str, words: &'static str) -> Refused {
    Refused { reason, answer: Some((400, words)) }
}

/// How the end of the body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The datagram ends the body; Content-Length may be missing or smaller (RFC 3261 §18.3).
    Datagram,
    /// Content-Length is required and exact.
    Stream,
}

/// What the guard learnt. Offsets are into the checked bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape<'a> {
    pub start: StartLine<'a>,
    /// First byte of the body.
    pub body: usize,
    /// One past its last byte.
    pub end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartLine<'a> {
    Request { method: &'a str, uri: &'a str },
    Response { status: u16, words: &'a str },
}

/// Checks one whole message.
pub(super) fn check(raw: &[u8], framing: Framing) -> Result<Shape<'_>, Refused> {
    let limit = if framing == Framing::Datagram { MAX_DATAGRAM } else { MAX_STREAM_MESSAGE };
    if raw.len() > limit {
        return Err(Refused { reason: "too-large", answer: Some((513, "Message Too Large")) });
    }
    let head_end = find(raw, b"\r\n\r\n").ok_or(silent("no-end-of-headers"))?;
    if head_end > MAX_HEAD {
        return Err(bad("head-too-large", "Headers Too Large"));
    }
    let head = std::str::from_utf8(&raw[..head_end]).map_err(|_| silent("not-utf8"))?;
    let mut lines = head.split("\r\n");
    let start = start_line(lines.next().unwrap_or_default())?;
    let seen = Seen::of(lines)?;
    let length = seen.verdict(&start)?;
    let body = head_end + 4;
    let present = raw.len() - body;
    let end = match (length, framing) {
        (Some(length), _) if length > present => return Err(bad("content-length", "Content-Length Too Large")),
        (Some(length), Framing::Stream) if length < present => {
            return Err(bad("content-length", "Content-Length Too Small"));
        }
        (Some(length), _) => body + length,
        (None, Framing::Datagram) => raw.len(),
        (None, Framing::Stream) => return Err(bad("content-length", "Content-Length Required")),
    };
    Ok(Shape { start, body, end })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Token of RFC 3261 §25.1.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b))
}

fn start_line(line: &str) -> Result<StartLine<'_>, Refused> {
    if line.len() > MAX_LINE || line.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(silent("start-line"));
    }
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (code, words) = rest.split_once(' ').unwrap_or((rest, ""));
        let status = code.parse::<u16>().ok().filter(|_| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()));
        return match status {
            Some(status @ 100..=699) => Ok(StartLine::Response { status, words }),
            _ => Err(silent("start-line")),
        };
    }
    let mut parts = line.split(' ');
    let (Some(method), Some(uri), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("start-line", "Bad Request Line"));
    };
    if !is_token(method) || method.len() > 32 || uri.is_empty() || !version.to_ascii_uppercase().starts_with("SIP/") {
        return Err(silent("start-line"));
    }
    if !version.eq_ignore_ascii_case("SIP/2.0") {
        return Err(Refused { reason: "version", answer: Some((505, "Version Not Supported")) });
    }
    if uri.contains(['<', '>', '"']) {
        return Err(bad("request-uri", "Bad Request-URI"));
    }
    Ok(StartLine::Request { method, uri })
}

/// The long name of a compact header (RFC 3261 §7.3.3), for those that the guard counts.
fn long_name(name: &str) -> &str {
    match name {
        "v" | "V" => "via",
        "f" | "F" => "from",
        "t" | "T" => "to",
        "i" | "I" => "call-id",
        "l" | "L" => "content-length",
        other => other,
    }
}

#[derive(Default)]
struct Seen<'a> {
    vias: usize,
    froms: usize,
    tos: usize,
    call_ids: usize,
    cseqs: usize,
    cseq: &'a str,
    call_id: &'a str,
    lengths: usize,
    length: &'a str,
    max_forwards: usize,
}

impl<'a> Seen<'a> {
    fn of(lines: impl Iterator<Item = &'a str>) -> Result<Self, Refused> {
        let mut seen = Seen::default();
        let mut count = 0;
        let mut folded_into_counted = false;
        for line in lines {
            count += 1;
            if count > MAX_HEADERS {
                return Err(bad("too-many-headers", "Too Many Headers"));
            }
            if line.len() > MAX_LINE {
                return Err(bad("line-too-long", "Header Too Long"));
            }
            // A bare CR or LF would be a line end for some readers and not for others.
            if line.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
                return Err(silent("control-character"));
            }
            if line.starts_with([' ', '\t']) {
                // Folding is legal, but not in the headers that the guard itself reads.
                if count == 1 || folded_into_counted {
                    return Err(bad("folding", "Folded Header Not Accepted Here"));
                }
                continue;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(bad("header-syntax", "Header Without Colon"));
            };
            let name = name.trim_end_matches([' ', '\t']);
            if !is_token(name) {
                return Err(bad("header-syntax", "Bad Header Name"));
            }
            folded_into_counted = seen.note(long_name(name), value.trim());
        }
        Ok(seen)
    }

    /// Returns whether a folded continuation of this header would change what the guard relies on.
    fn note(&mut self, name: &str, value: &'a str) -> bool {
        if name.eq_ignore_ascii_case("via") {
            self.vias += 1;
            false
        } else if name.eq_ignore_ascii_case("from") {
            self.froms += 1;
            false
        } else if name.eq_ignore_ascii_case("to") {
            self.tos += 1;
            false
        } else if name.eq_ignore_ascii_case("call-id") {
            self.call_ids += 1;
            self.call_id = value;
            true
        } else if name.eq_ignore_ascii_case("cseq") {
            self.cseqs += 1;
            self.cseq = value;
            true
        } else if name.eq_ignore_ascii_case("content-length") {
            self.lengths += 1;
            self.length = value;
            true
        } else if name.eq_ignore_ascii_case("max-forwards") {
            self.max_forwards += 1;
            true
        } else {
            false
        }
    }

    /// The Content-Length, when the headers hold together.
    fn verdict(&self, start: &StartLine<'_>) -> Result<Option<usize>, Refused> {
        if self.vias == 0 {
            return Err(silent("no-via"));
        }
        if self.froms != 1 || self.tos != 1 || self.call_ids != 1 || self.cseqs != 1 || self.call_id.is_empty() {
            return Err(bad("mandatory-headers", "Missing Or Repeated Header"));
        }
        if self.max_forwards > 1 {
            return Err(bad("mandatory-headers", "Repeated Max-Forwards"));
        }
        let (number, method) =
            self.cseq.split_once([' ', '\t']).ok_or(bad("cseq", "Bad CSeq")).map(|(n, m)| (n, m.trim()))?;
        // RFC 3261 §8.1.1.5: less than 2^31.
        let in_range = !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && number.parse::<u64>().is_ok_and(|n| n < 1 << 31);
        if !in_range || !is_token(method) {
            return Err(bad("cseq", "Bad CSeq"));
        }
        if let StartLine::Request { method: asked, .. } = start
            && *asked != method
        {
            return Err(bad("cseq", "CSeq Method Mismatch"));
        }
        match self.lengths {
            0 => Ok(None),
            1 if !self.length.is_empty() && self.length.bytes().all(|b| b.is_ascii_digit()) => {
                match self.length.parse() {
                    Ok(length) if length <= MAX_STREAM_MESSAGE => Ok(Some(length)),
                    _ => Err(bad("content-length", "Content-Length Too Large")),
                }
            }
            _ => Err(bad("content-length", "Bad Content-Length")),
        }
    }
}

/// What a stream yields.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framed {
    Message(Bytes),
    /// A double CRLF between messages: answer with one CRLF.
    Ping,
}

/// Cuts a byte stream into messages. After an error the stream has lost its framing and must be closed.
#[derive(Debug, Default)]
pub(super) struct Framer {
    buffer: BytesMut,
    /// Bytes already searched for the end of the head.
    searched: usize,
}

impl Framer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message or ping, `None` when more bytes are needed. The buffer stays under 64 KiB plus one read.
    pub(super) fn poll(&mut self) -> Result<Option<Framed>, (Refused, Bytes)> {
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.advance(4);
            self.searched = 0;
            return Ok(Some(Framed::Ping));
        }
        // One CRLF may be the first half of a ping, or stray before a start line (RFC 3261 §7.5).
        if self.buffer.starts_with(b"\r\n") && self.buffer.len() > 3 {
            self.buffer.advance(2);
            self.searched = 0;
        } else if self.buffer.len() < 4 {
            return Ok(None);
        }
        let from = self.searched.saturating_sub(3);
        let Some(at) = find(&self.buffer[from..], b"\r\n\r\n") else {
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_HEAD {
                return Err((silent("head-too-large"), self.take(0)));
            }
            return Ok(None);
        };
        let head_end = from + at;
        if head_end > MAX_HEAD {
            return Err((silent("head-too-large"), self.take(0)));
        }
        let length = match stream_length(&self.buffer[..head_end]) {
            Ok(length) => length,
            Err(refused) => return Err((refused, self.take(head_end + 4))),
        };
        let whole = head_end + 4 + length;
        if whole > MAX_STREAM_MESSAGE {
            return Err((bad("too-large", "Message Too Large"), self.take(head_end + 4)));
        }
        if self.buffer.len() < whole {
            self.searched = head_end;
            return Ok(None);
        }
        Ok(Some(Framed::Message(self.take(whole))))
    }

    /// Whether part of a message waits for the rest.
    pub(super) fn is_unfinished(&self) -> bool {
        self.buffer.len() > 4
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.searched = 0;
        self.buffer.split_to(count).freeze()
    }
}

fn stream_length(head: &[u8]) -> Result<usize, Refused> {
    let head = std::str::from_utf8(head).map_err(|_| silent("not-utf8"))?;
    let mut length = None;
    for line in head.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if long_name(name.trim_end()).eq_ignore_ascii_case("content-length") {
            let value = value.trim();
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            match value.parse::<usize>() {
                Ok(parsed) if digits && length.is_none() && parsed <= MAX_STREAM_MESSAGE => length = Some(parsed),
                _ => return Err(bad("content-length", "Bad Content-Length")),
            }
        }
    }
    length.ok_or(bad("content-length", "Content-Length Required"))
}

#[cfg(test)]
mod tests;
