//! SIP messages as the softphone reads and writes them. Its own small parser on purpose: the phone that tests the node
//! must not share the node's mistakes.

use crate::sip::registrar::address::{Address, split_outside_quotes};
use bytes::Bytes;

/// Most header lines of a message: real ones have about 20.
const MAX_HEADERS: usize = 128;
/// Short names (RFC 3261 §7.3.3).
const COMPACT: [(&str, &str); 9] = [
    ("v", "Via"),
    ("f", "From"),
    ("t", "To"),
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("c", "Content-Type"),
    ("l", "Content-Length"),
    ("k", "Supported"),
    ("s", "Subject"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Request { method: String, uri: String },
    Response { status: u16, words: String },
}

/// One datagram from the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub start: Start,
    headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Message {
    /// `None` for what is not a message with Via, From, To, Call-ID and CSeq.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let end = datagram.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, body) = (std::str::from_utf8(datagram.get(..end)?).ok()?, datagram.get(end + 4..)?);
        let mut lines = head.split("\r\n");
        let start = start_line(lines.next()?)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let (_, value) = headers.last_mut()?;
                value.push(' ');
                value.push_str(line.trim());
                continue;
            }
            let (name, value) = line.split_once(':')?;
            let name = name.trim();
            let long =
                COMPACT.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)).map_or(name, |(_, long)| long);
            if headers.len() == MAX_HEADERS {
                return None;
            }
            headers.push((long.to_owned(), value.trim().to_owned()));
        }
        let mut message = Self { start, headers, body: Bytes::new() };
        let length = match message.get("Content-Length") {
            Some(length) => length.parse().ok()?,
            None => body.len(),
        };
        message.body = Bytes::copy_from_slice(body.get(..length)?);
        let whole = ["From", "To", "Call-ID"].iter().all(|name| message.get(name).is_some());
        (whole && message.branch().is_some() && message.cseq().is_some()).then_some(message)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn call_id(&self) -> &str {
        self.get("Call-ID").unwrap_or_default()
    }

    /// Number and method.
    pub fn cseq(&self) -> Option<(u32, &str)> {
        let (number, method) = self.get("CSeq")?.split_once([' ', '\t'])?;
        Some((number.parse().ok()?, method.trim()))
    }

    /// Of the topmost Via.
    pub fn branch(&self) -> Option<&str> {
        let top = split_outside_quotes(self.get("Via")?, ',').into_iter().next()?;
        let (_, parameters) = top.split_once(';')?;
        parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("branch="))
    }

    pub fn tag(&self, header: &str) -> Option<&str> {
        Address::parse(self.get(header)?)?.parameter("tag")
    }

    /// The URI of From, To or Contact.
    pub fn uri(&self, header: &str) -> Option<&str> {
        let first = split_outside_quotes(self.get(header)?, ',').into_iter().next()?;
        Address::parse(first).map(|address| address.uri)
    }

    /// The display name of From, unescaped.
    pub fn display(&self) -> Option<String> {
        let from = self.get("From")?;
        let name = from[..from.rfind('<')?].trim();
        let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
            None => name.to_owned(),
        };
        Some(name).filter(|name| !name.is_empty())
    }

    /// The body when it is SDP.
    pub fn sdp(&self) -> Option<Bytes> {
        let kind = self.get("Content-Type")?.split(';').next()?.trim();
        (kind.eq_ignore_ascii_case("application/sdp") && !self.body.is_empty()).then(|| self.body.clone())
    }

    /// `Reason: SIP;cause=486;text="..."` (RFC 3326).
    pub fn reason(&self) -> Option<(u16, String)> {
        let values = self.all("Reason").flat_map(|line| split_outside_quotes(line, ','));
        let mut sip = values
            .map(|value| split_outside_quotes(value, ';'))
            .filter(|parts| parts.first().is_some_and(|protocol| protocol.eq_ignore_ascii_case("SIP")));
        let parts = sip.next()?;
        let field = |name: &str| parts.iter().find_map(|part| part.strip_prefix(name)?.trim().strip_prefix('='));
        let words = field("text").unwrap_or_default().trim().trim_matches('"').replace("\\\"", "\"");
        Some((field("cause")?.trim().parse().ok()?, words))
    }

    /// The response to this request with the headers that RFC 3261 §8.2.6.2 wants, and `more`.
    pub fn response(
        &self,
        status: u16,
        words: &str,
        to_tag: &str,
        more: &[(&str, &str)],
        sdp: Option<&Bytes>,
    ) -> Bytes {
        let mut text = format!("SIP/2.0 {status} {words}\r\n");
        for name in ["Via", "Record-Route", "From"] {
            self.all(name).for_each(|value| text.push_str(&format!("{name}: {value}\r\n")));
        }
        let tag = if self.tag("To").is_some() || status == 100 { String::new() } else { format!(";tag={to_tag}") };
        text.push_str(&format!("To: {}{tag}\r\n", self.get("To").unwrap_or_default()));
        text.push_str(&format!("Call-ID: {}\r\nCSeq: {}\r\n", self.call_id(), self.get("CSeq").unwrap_or_default()));
        finish(text, more, sdp)
    }
}

fn start_line(line: &str) -> Option<Start> {
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (status, words) = rest.split_once(' ').unwrap_or((rest, ""));
        let status = status.parse().ok().filter(|status| (100..700).contains(status))?;
        return Some(Start::Response { status, words: words.to_owned() });
    }
    let (method, rest) = line.split_once(' ')?;
    let uri = rest.strip_suffix(" SIP/2.0")?;
    let plain = !method.is_empty() && !uri.is_empty() && !uri.contains(' ');
    plain.then(|| Start::Request { method: method.to_owned(), uri: uri.to_owned() })
}

/// A request in its parts.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub method: &'a str,
    pub uri: &'a str,
    /// `host:port` of ours, and the branch.
    pub via: (&'a str, &'a str),
    pub from: &'a str,
    pub to: &'a str,
    pub call_id: &'a str,
    pub cseq: u32,
}

impl Request<'_> {
    pub fn encode(&self, more: &[(&str, &str)], sdp: Option<&Bytes>) -> Bytes {
        let Self { method, uri, via: (host, branch), from, to, call_id, cseq } = self;
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {host};rport;branch={branch}\r\nMax-Forwards: 70\r\n\
             From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n"
        );
        finish(text, more, sdp)
    }
}

fn finish(mut text: String, more: &[(&str, &str)], sdp: Option<&Bytes>) -> Bytes {
    more.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    text.push_str(concat!("User-Agent: Peerline-phone/", env!("CARGO_PKG_VERSION"), "\r\n"));
    if sdp.is_some() {
        text.push_str("Content-Type: application/sdp\r\n");
    }
    let body = sdp.map(|sdp| &sdp[..]).unwrap_or_default();
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes.into()
}
