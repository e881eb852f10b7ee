//! A SIP message in memory: what the parser made of bytes that passed the guard, and the writer of what goes out.
//! Header values stay the text that came; nothing is re-encoded on the way through.

use super::address::{NameAddr, clean_words, param, split_outside};
use super::flow::Flow;
use super::guard::{Shape, StartLine};
use bytes::Bytes;
use rsipstack::sip::parser::parse_message;
use rsipstack::sip::{Header, Headers, Method, SipMessage};
use std::fmt::Write as _;

/// Methods we answer with something other than 405 (RFC 3261 §20.5).
pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, REGISTER";
const AGENT: &str = concat!("Peerline/", env!("CARGO_PKG_VERSION"));

/// One message that came in.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub start: Start,
    headers: Headers,
    pub body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// `uri` exactly as sent.
    Request {
        method: Method,
        uri: String,
    },
    Response {
        status: u16,
        words: String,
    },
}

/// Why checked bytes still are no message for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    UnknownMethod,
    Syntax,
}

impl Message {
    /// Parses bytes that passed `guard::check`.
    pub(super) fn parse(raw: &Bytes, shape: &Shape<'_>) -> Result<Self, Unfit> {
        let start = match shape.start {
            StartLine::Request { method, uri } => {
                // The parser folds case; method names are case-sensitive (RFC 3261 §7.1).
                let known = method.parse::<Method>().ok().filter(|known| known.to_string() == method);
                Start::Request { method: known.ok_or(Unfit::UnknownMethod)?, uri: uri.to_owned() }
            }
            StartLine::Response { status, words } => Start::Response { status, words: clean_words(words) },
        };
        let headers = match parse_message(&raw[..shape.body]) {
            Ok(SipMessage::Request(request)) => request.headers,
            Ok(SipMessage::Response(response)) => response.headers,
            Err(_) => return Err(Unfit::Syntax),
        };
        let message = Self { start, headers, body: raw.slice(shape.body..shape.end) };
        let sound = message.top_via().is_some()
            && NameAddr::parse(message.get("From").unwrap_or_default()).is_some()
            && NameAddr::parse(message.get("To").unwrap_or_default()).is_some();
        if sound { Ok(message) } else { Err(Unfit::Syntax) }
    }

    /// The first value of a header, by its long name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All lines of a header, in order, unsplit.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |header| header.name().eq_ignore_ascii_case(name)).map(Header::value)
    }

    /// All values of a comma-separated header.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.all(name).flat_map(|line| split_outside(line, ','))
    }

    pub(super) fn call_id(&self) -> &str {
        self.get("Call-ID").unwrap_or_default()
    }

    /// Number of the CSeq; the guard has checked that there is one below 2^31.
    pub(super) fn cseq(&self) -> u32 {
        let text = self.get("CSeq").unwrap_or_default();
        text.split_ascii_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    pub(super) fn cseq_method(&self) -> &str {
        self.get("CSeq").unwrap_or_default().split_ascii_whitespace().nth(1).unwrap_or_default()
    }

    pub(super) fn tag_of_from(&self) -> Option<&str> {
        NameAddr::parse(self.get("From")?)?.tag()
    }

    pub(super) fn tag_of_to(&self) -> Option<&str> {
        NameAddr::parse(self.get("To")?)?.tag()
    }

    /// Sent-by and parameters of the topmost Via: (`host:port`, `;branch=…`).
    pub(super) fn top_via(&self) -> Option<(&str, &str)> {
        let via = self.list("Via").next()?;
        let (protocol, rest) = via.split_once([' ', '\t'])?;
        if !protocol.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("SIP/2.0/")) {
            return None;
        }
        let rest = rest.trim_start();
        let end = rest.find(';').unwrap_or(rest.len());
        let sent_by = rest[..end].trim();
        (!sent_by.is_empty() && sent_by.len() <= 256).then_some((sent_by, &rest[end..]))
    }

    pub(super) fn branch(&self) -> Option<&str> {
        self.top_via().and_then(|(_, params)| param(params, "branch"))
    }

    pub(super) fn contact_uri(&self) -> Option<&str> {
        self.list("Contact").next().and_then(NameAddr::parse).map(|contact| contact.uri)
    }

    /// The body when it is SDP; `Err` when there is one of another type.
    pub(super) fn sdp(&self) -> Result<Option<Bytes>, ()> {
        if self.body.is_empty() {
            return Ok(None);
        }
        let kind = self.get("Content-Type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/sdp") { Ok(Some(self.body.clone())) } else { Err(()) }
    }
}

/// The headers of a request that every response repeats (RFC 3261 §8.2.6.2), with `received`/`rport` filled in.
#[derive(Clone, Debug)]
pub(super) struct ReplyHead {
    vias: Vec<String>,
    from: String,
    to: String,
    call_id: String,
    cseq: String,
    record_routes: Vec<String>,
}

impl ReplyHead {
    /// `to_tag` is added when the request had none (not for 100).
    pub(super) fn of(request: &Message, flow: &Flow, to_tag: &str) -> Self {
        let mut vias: Vec<String> = request.all("Via").map(str::to_owned).collect();
        if let Some(top) = vias.first_mut() {
            *top = stamp_via(top, flow);
        }
        let mut to = request.get("To").unwrap_or_default().to_owned();
        if request.tag_of_to().is_none() && !to_tag.is_empty() {
            let _ = write!(to, ";tag={to_tag}");
        }
        Self {
            vias,
            from: request.get("From").unwrap_or_default().to_owned(),
            to,
            call_id: request.call_id().to_owned(),
            cseq: request.get("CSeq").unwrap_or_default().to_owned(),
            record_routes: request.all("Record-Route").map(str::to_owned).collect(),
        }
    }

    /// A response with these headers and `extra` ones.
    pub(super) fn response(
        &self,
        status: u16,
        words: &str,
        extra: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Bytes {
        let mut out = Writer::new(&format!("SIP/2.0 {status} {}", clean_words(words)));
        for via in &self.vias {
            out.header("Via", via);
        }
        out.header("From", &self.from);
        out.header("To", &self.to);
        out.header("Call-ID", &self.call_id);
        out.header("CSeq", &self.cseq);
        // RFC 3261 §12.1.1: in dialog-forming responses; harmless in others.
        if (101..300).contains(&status) {
            for route in &self.record_routes {
                out.header("Record-Route", route);
            }
        }
        for (name, value) in extra {
            out.header(name, value);
        }
        out.finish(body)
    }
}

/// RFC 3261 §18.2.1 and RFC 3581 §4: say where the request really came from.
fn stamp_via(line: &str, flow: &Flow) -> String {
    let Some(remote) = flow.remote() else { return line.to_owned() };
    let top = split_outside(line, ',').next().unwrap_or(line);
    let rest = &line[line.find(top).unwrap_or(0) + top.len()..];
    let mut parts = split_outside(top, ';');
    let sent_by = parts.next().unwrap_or_default();
    let host = sent_by.rsplit([' ', '\t']).next().unwrap_or_default();
    let ip = remote.ip().to_string();
    let bare =
        host.strip_prefix('[').and_then(|h| h.split(']').next()).unwrap_or(host.split(':').next().unwrap_or(host));
    let mut out = sent_by.to_owned();
    let mut wants_port = false;
    for part in parts {
        let name = part.split('=').next().unwrap_or_default().trim();
        if name.eq_ignore_ascii_case("rport") {
            wants_port = true;
        } else if !name.eq_ignore_ascii_case("received") {
            let _ = write!(out, ";{part}");
        }
    }
    if wants_port || bare != ip {
        let _ = write!(out, ";received={ip}");
    }
    if wants_port {
        let _ = write!(out, ";rport={}", remote.port());
    }
    out + rest
}

/// Writes a message. Line breaks in values are dropped here as the last line of defence against injected headers.
#[derive(Debug)]
pub(super) struct Writer {
    text: String,
}

impl Writer {
    pub(super) fn new(start_line: &str) -> Self {
        let mut writer = Self { text: String::with_capacity(1_024) };
        writer.push_clean(start_line);
        writer.text.push_str("\r\n");
        writer
    }

    pub(super) fn request(method: &str, uri: &str) -> Self {
        Self::new(&format!("{method} {uri} SIP/2.0"))
    }

    pub(super) fn header(&mut self, name: &str, value: &str) -> &mut Self {
        self.text.push_str(name);
        self.text.push_str(": ");
        self.push_clean(value);
        self.text.push_str("\r\n");
        self
    }

    fn push_clean(&mut self, value: &str) {
        if value.contains(['\r', '\n', '\0']) {
            self.text.extend(value.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')));
        } else {
            self.text.push_str(value);
        }
    }

    /// Ends the message; `body` is (type, bytes).
    pub(super) fn finish(mut self, body: Option<(&str, &[u8])>) -> Bytes {
        self.header("User-Agent", AGENT);
        let body = body.filter(|(_, bytes)| !bytes.is_empty());
        if let Some((kind, _)) = body {
            self.header("Content-Type", kind);
        }
        let bytes = body.map(|(_, bytes)| bytes).unwrap_or_default();
        let _ = write!(self.text, "Content-Length: {}\r\n\r\n", bytes.len());
        let mut out = self.text.into_bytes();
        out.extend_from_slice(bytes);
        // Without the room to spare: responses are kept for half a minute.
        Bytes::from(out.into_boxed_slice())
    }
}

/// The best 4xx for bytes that the guard refused: the five headers are looked for line by line. `None` = silence.
pub(super) fn answer_to_refused(
    raw: &[u8],
    flow: &Flow,
    status: u16,
    words: &str,
    extra: &[(&str, &str)],
) -> Option<Bytes> {
    let head_end = raw.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(raw.len().min(16_384));
    let head = std::str::from_utf8(&raw[..head_end]).ok()?;
    let mut lines = head.split("\r\n");
    let start = lines.next()?;
    if start.starts_with("SIP/") || start.starts_with("ACK ") {
        return None;
    }
    let mut found = ReplyHead {
        vias: Vec::new(),
        from: String::new(),
        to: String::new(),
        call_id: String::new(),
        cseq: String::new(),
        record_routes: Vec::new(),
    };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if value.is_empty() || value.chars().any(|c| c.is_control() && c != '\t') {
            continue;
        }
        let slot = match name.as_str() {
            "via" | "v" => {
                found.vias.push(value.to_owned());
                continue;
            }
            "from" | "f" => &mut found.from,
            "to" | "t" => &mut found.to,
            "call-id" | "i" => &mut found.call_id,
            "cseq" => &mut found.cseq,
            _ => continue,
        };
        if slot.is_empty() {
            *slot = value.to_owned();
        }
    }
    let whole = !found.vias.is_empty()
        && ![&found.from, &found.to, &found.call_id, &found.cseq].into_iter().any(String::is_empty);
    if !whole {
        return None;
    }
    found.vias[0] = stamp_via(&found.vias[0], flow);
    Some(found.response(status, words, extra, None))
}

#[cfg(test)]
mod tests;
