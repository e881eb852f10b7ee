//! The contacts of one account as bytes, for the store: what makes a call in work right after a restart.
//!
//! `version (1) || count (1) || contact*`, where a contact is `expires, unix seconds (8) || q in thousandths (2) ||
//! transport (1: 0 UDP, 1 TCP) || local || remote || len (2), uri || len (2), instance`, and an address is
//! `family (1: 4 or 6) || ip || port (2)`. Our own format on our own disk; damaged bytes cost contacts, nothing else.

use super::address::{Address, SipUri};
use super::{Bound, MAX_INSTANCE_BYTES, plain};
use crate::clock::UnixMillis;
use crate::sip::flow::Flow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

const VERSION: u8 = 1;
const UNSPECIFIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A contact read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub uri: String,
    pub instance: Option<String>,
    pub q: u16,
    pub flow: SavedFlow,
    pub expires: UnixMillis,
}

/// Where it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SavedFlow {
    Udp {
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The connection did not survive.
    Tcp,
}

/// Empty when there is nothing to keep.
pub(super) fn encode(contacts: &[Bound], now: Instant, wall: UnixMillis) -> Vec<u8> {
    if contacts.is_empty() {
        return Vec::new();
    }
    let mut bytes = vec![VERSION, u8::try_from(contacts.len()).unwrap_or(u8::MAX)];
    for contact in contacts.iter().take(usize::from(u8::MAX)) {
        let left = contact.expires.saturating_duration_since(now).as_millis();
        let expires = wall.0.saturating_add(u64::try_from(left).unwrap_or(0)).div_ceil(1000);
        bytes.extend(expires.to_be_bytes());
        bytes.extend(contact.q.to_be_bytes());
        let (transport, local, remote) = match contact.flow {
            Flow::Udp { local, remote } => (0, local, remote),
            Flow::Tcp { local, remote, .. } => (1, local, remote),
            Flow::Trunk(_) => (1, UNSPECIFIED, UNSPECIFIED),
        };
        bytes.push(transport);
        put_address(&mut bytes, local);
        put_address(&mut bytes, remote);
        put_text(&mut bytes, &contact.uri);
        put_text(&mut bytes, contact.instance.as_deref().unwrap_or(""));
    }
    bytes
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(address.port().to_be_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(0);
    bytes.extend(length.to_be_bytes());
    bytes.extend(&text.as_bytes()[..usize::from(length)]);
}

/// As many contacts as can be read; at most `most`.
pub(super) fn decode(bytes: &[u8], most: usize) -> Vec<Saved> {
    let mut rest = Reader(bytes);
    let Some([VERSION, count]) = rest.take::<2>() else { return Vec::new() };
    let count = usize::from(count).min(most);
    std::iter::from_fn(|| rest.contact()).take(count).collect()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn contact(&mut self) -> Option<Saved> {
        let expires = UnixMillis::from_seconds(u64::from_be_bytes(self.take()?));
        let q = u16::from_be_bytes(self.take()?).min(1000);
        let [transport] = self.take()?;
        let (local, remote) = (self.address()?, self.address()?);
        let uri = self.text()?;
        let instance = Some(self.text()?).filter(|text| !text.is_empty());
        let whole = Address::parse(&format!("<{uri}>")).is_some_and(|address| address.uri == uri);
        let sound = whole && SipUri::parse(uri).is_some();
        let known = instance.is_none_or(|text| text.len() <= MAX_INSTANCE_BYTES && plain(text));
        let flow = if transport == 0 { SavedFlow::Udp { local, remote } } else { SavedFlow::Tcp };
        let (uri, instance) = (uri.to_owned(), instance.map(str::to_owned));
        (sound && known && transport <= 1).then_some(Saved { uri, instance, q, flow, expires })
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.take()? {
            [4] => IpAddr::from(self.take::<4>()?),
            [6] => IpAddr::from(self.take::<16>()?),
            [_] => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}
