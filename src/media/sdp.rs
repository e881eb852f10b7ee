//! Session descriptions (RFC 8866): what the far end of a leg says, and the same description told in our name.
//!
//! Pure functions. What concerns the path (addresses, ports, keys, ICE, DTLS, capability negotiation about them) is
//! replaced or dropped; what concerns the media (codecs, directions, SSRCs, anything unknown) stays as and where it is.

use super::MediaError;
use super::ice::CallId;
use super::srtp::{self, Key, Suite};
use sdp_types::{Attribute, Connection, Media, Session};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest description that is read, bytes. Browsers with many candidates stay below 8 KiB.
pub(super) const MAX_BYTES: usize = 16 * 1024;
/// Most `m=` lines, and most of them that carry RTP through us: sound, picture, a screen and one more.
const MAX_LINES: usize = 16;
const MAX_STREAMS: usize = 4;

/// What the far end says about one `m=` line that carries RTP.
pub(super) struct Stream {
    /// `None`: on hold the old way (`c=0.0.0.0`), a host name, or an address nobody can be at.
    pub(super) rtp: Option<SocketAddr>,
    /// RTCP: `a=rtcp`, else the next port (RFC 3605).
    pub(super) rtcp: Option<SocketAddr>,
    /// The transport as written, so that an answer repeats it.
    pub(super) proto: String,
    /// RTP/SAVP or RTP/SAVPF.
    pub(super) secure: bool,
    /// Keys that we can use, in the far end's order.
    pub(super) keys: Vec<(u32, Key)>,
    /// Whether the far end means to send, and to listen.
    pub(super) sends: bool,
    pub(super) listens: bool,
    /// The far end, a node, looks for paths under this name.
    pub(super) call: Option<CallId>,
}

impl Stream {
    /// The first key of a suite that `accepts` takes.
    pub(super) fn key(&self, accepts: impl Fn(Suite) -> bool) -> Option<&(u32, Key)> {
        self.keys.iter().find(|(_, key)| accepts(key.suite))
    }
}

/// Reads a description.
///
/// # Errors
/// `BadSdp` when it is too long or not one.
pub(super) fn parse(sdp: &[u8]) -> Result<Session, MediaError> {
    if sdp.len() > MAX_BYTES {
        return Err(MediaError::BadSdp(format!("{} bytes", sdp.len())));
    }
    let session = Session::parse(sdp).map_err(|error| MediaError::BadSdp(error.to_string()))?;
    match session.medias.len() {
        0 => Err(MediaError::BadSdp("no media line".into())),
        1..=MAX_LINES => Ok(session),
        lines => Err(MediaError::BadSdp(format!("{lines} media lines"))),
    }
}

/// What the description says about each `m=` line: `None` for rejected ones and for what we do not carry.
pub(super) fn streams(session: &Session) -> Vec<Option<Stream>> {
    let mut room = MAX_STREAMS;
    let mut read = |media: &Media| {
        let stream = read_stream(session, media).filter(|_| room > 0)?;
        room -= 1;
        Some(stream)
    };
    session.medias.iter().map(&mut read).collect()
}

fn read_stream(session: &Session, media: &Media) -> Option<Stream> {
    let (secure, _) = rtp_profile(&media.proto)?;
    if media.port == 0 {
        return None;
    }
    let connection = media.connections.first().or(session.connection.as_ref());
    let ip = connection.and_then(|connection| usable(&connection.connection_address));
    let rtp = ip.map(|ip| SocketAddr::new(ip, media.port));
    let held = is_held(session, media);
    let keys =
        if secure { values(&media.attributes, "crypto").filter_map(srtp::read_line).collect() } else { Vec::new() };
    Some(Stream {
        rtp,
        rtcp: rtp.and_then(|rtp| rtcp_address(media, rtp)),
        proto: media.proto.clone(),
        secure,
        keys,
        sends: !held && direction(session, media) & SENDS != 0,
        listens: !held && direction(session, media) & RECEIVES != 0,
        call: values(&media.attributes, CALL).find_map(read_call),
    })
}

/// Names the call in the candidates that travel beside the descriptions; 16 bytes in hexadecimal digits.
const CALL: &str = "peerline-ice";

fn read_call(value: &str) -> Option<CallId> {
    let bytes = data_encoding::HEXLOWER.decode(value.as_bytes()).ok()?;
    bytes.try_into().ok().map(CallId)
}

/// `Some((secure, with feedback))` for the four profiles of RTP that we carry; DTLS and others are not among them.
fn rtp_profile(proto: &str) -> Option<(bool, bool)> {
    let profiles = [("RTP/AVP", (false, false)), ("RTP/SAVP", (true, false)), ("RTP/AVPF", (false, true))];
    let mut profiles = profiles.into_iter().chain([("RTP/SAVPF", (true, true))]);
    profiles.find(|(name, _)| name.eq_ignore_ascii_case(proto)).map(|(_, profile)| profile)
}

/// An address that one host can have. Host names are not looked up: the first packet will show the address.
fn usable(address: &str) -> Option<IpAddr> {
    let ip: IpAddr = address.parse().ok()?;
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    (!ip.is_unspecified() && !ip.is_multicast() && !broadcast).then_some(ip)
}

fn rtcp_address(media: &Media, rtp: SocketAddr) -> Option<SocketAddr> {
    let Some(value) = values(&media.attributes, "rtcp").next() else {
        return rtp.port().checked_add(1).map(|port| SocketAddr::new(rtp.ip(), port));
    };
    let mut words = value.split_ascii_whitespace();
    let port = words.next()?.parse().ok().filter(|port| *port != 0)?;
    let ip = words.nth(2).and_then(usable).unwrap_or(rtp.ip());
    Some(SocketAddr::new(ip, port))
}

const SENDS: u8 = 1;
const RECEIVES: u8 = 2;

const DIRECTIONS: [(&str, u8); 4] =
    [("inactive", 0), ("sendonly", SENDS), ("recvonly", RECEIVES), ("sendrecv", SENDS | RECEIVES)];

fn direction(session: &Session, media: &Media) -> u8 {
    let of = |attributes: &[Attribute]| attributes.iter().find_map(|attribute| direction_bits(&attribute.attribute));
    of(&media.attributes).or_else(|| of(&session.attributes)).unwrap_or(SENDS | RECEIVES)
}

fn direction_bits(name: &str) -> Option<u8> {
    DIRECTIONS.iter().find(|(word, _)| word.eq_ignore_ascii_case(name)).map(|(_, bits)| *bits)
}

fn values<'a>(attributes: &'a [Attribute], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = attributes.iter().filter(move |attribute| attribute.attribute.eq_ignore_ascii_case(name));
    named.filter_map(|attribute| attribute.value.as_deref())
}

/// Our name in the `o=` line: the same for the life of a leg but for the version (RFC 3264 §8).
pub(super) struct Origin {
    pub(super) ip: IpAddr,
    pub(super) session_id: u64,
    pub(super) version: u64,
}

/// What we say about one `m=` line.
pub(super) struct Line {
    pub(super) port: u16,
    pub(super) transport: Transport,
    /// The value of our `a=crypto`.
    pub(super) crypto: Option<zeroize::Zeroizing<String>>,
    /// RTP and RTCP on one port.
    pub(super) muxed: bool,
    /// We look for paths under this name.
    pub(super) call: Option<CallId>,
}

pub(super) enum Transport {
    /// The profile of the other side, plain or secure (offers).
    Like { secure: bool },
    /// As in the offer that is answered.
    As(String),
}

/// The description `other` in our name: `lines` holds what we say per `m=` line, `None` rejects it.
pub(super) fn rewrite(other: &Session, origin: &Origin, lines: &[Option<Line>]) -> Session {
    let mut session = other.clone();
    session.origin = sdp_types::Origin::with_ip_addr(origin.session_id, origin.version, origin.ip);
    session.connection = Some(Connection::from_ip_addr(origin.ip));
    session.key = None;
    if session.session_name.trim().is_empty() {
        session.session_name = "-".into();
    }
    session.attributes.retain(|attribute| !of_the_path(attribute));
    let held: Vec<bool> = other.medias.iter().map(|media| is_held(other, media)).collect();
    for (index, media) in session.medias.iter_mut().enumerate() {
        media.connections.clear();
        media.num_ports = None;
        media.key = None;
        media.attributes.retain(|attribute| !of_the_path(attribute));
        let Some(line) = lines.get(index).and_then(Option::as_ref) else {
            media.port = 0;
            continue;
        };
        media.port = line.port;
        media.proto = match &line.transport {
            Transport::As(proto) => proto.clone(),
            Transport::Like { secure } => profile_like(&media.proto, *secure),
        };
        if held.get(index).copied().unwrap_or(false) {
            media.connections.push(Connection::from_ip_addr(nobody(origin.ip)));
        }
        if line.muxed {
            media.attributes.push(Attribute::new("rtcp-mux"));
        }
        if let Some(CallId(call)) = &line.call {
            media.attributes.push(Attribute::with_value(CALL, data_encoding::HEXLOWER.encode(call)));
        }
        if let Some(crypto) = &line.crypto {
            media.attributes.push(Attribute::with_value("crypto", crypto.as_str()));
        }
    }
    session
}

/// Turns an offer round into the answer of somebody who plays back what they hear.
pub(super) fn mirror(session: &mut Session) {
    let flip = |attribute: &mut Attribute| {
        if let Some(bits) = direction_bits(&attribute.attribute) {
            let flipped = bits >> 1 | (bits & 1) << 1;
            attribute.attribute = DIRECTIONS.iter().find(|(_, b)| *b == flipped).map_or("sendrecv", |(w, _)| w).into();
        }
    };
    session.attributes.iter_mut().for_each(flip);
    session.medias.iter_mut().for_each(|media| media.attributes.iter_mut().for_each(flip));
}

/// The description as bytes.
pub(super) fn write(session: &Session) -> Result<Vec<u8>, MediaError> {
    let mut bytes = Vec::with_capacity(1_024);
    session.write(&mut bytes).map_err(|error| MediaError::Io(error.to_string()))?;
    Ok(bytes)
}

fn profile_like(proto: &str, secure: bool) -> String {
    match rtp_profile(proto) {
        Some((_, feedback)) => match (secure, feedback) {
            (false, false) => "RTP/AVP",
            (true, false) => "RTP/SAVP",
            (false, true) => "RTP/AVPF",
            (true, true) => "RTP/SAVPF",
        }
        .into(),
        None => proto.into(),
    }
}

/// RFC 3264 §8.4: hold as before there were directions.
fn is_held(session: &Session, media: &Media) -> bool {
    let connection = media.connections.first().or(session.connection.as_ref());
    let ip = connection.and_then(|connection| connection.connection_address.parse::<IpAddr>().ok());
    ip.is_some_and(|ip| ip.is_unspecified())
}

fn nobody(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Attributes about the way that packets took to the node, which end here. `a=ssrc` stays: packets keep their SSRC.
/// `a=rtcp-fb`, `a=rtcp-xr` and `a=rtcp-rsize` stay: RTCP passes.
const PATH_ATTRIBUTES: [&str; 31] = [
    CALL,
    "rtcp",
    "rtcp-mux",
    "rtcp-mux-only",
    "crypto",
    "key-mgmt",
    "zrtp-hash",
    "fingerprint",
    "setup",
    "connection",
    "tls-id",
    "dtls-id",
    "candidate",
    "remote-candidates",
    "end-of-candidates",
    "ice-ufrag",
    "ice-pwd",
    "ice-lite",
    "ice-options",
    "ice-pacing",
    "ice-mismatch",
    "ice2",
    "bundle-only",
    "altc",
    "alt",
    "acap",
    "tcap",
    "pcfg",
    "acfg",
    "csup",
    "creq",
];

fn of_the_path(attribute: &Attribute) -> bool {
    let named = |name: &&str| attribute.attribute.eq_ignore_ascii_case(name);
    // Bundled lines share one port; ours have one each.
    let bundle = || {
        let value = attribute.value.as_deref().unwrap_or_default();
        attribute.attribute.eq_ignore_ascii_case("group") && value.starts_with("BUNDLE")
    };
    PATH_ATTRIBUTES.iter().any(named) || bundle()
}

#[cfg(test)]
mod tests;
