//! The gate between one stream of a leg and the rest of the node: which packets come in, in the clear, and how packets
//! go out, to where and under which key. Pure: packets, addresses and the time are arguments.

use super::latch::{Latch, Stranger};
use super::packet::{self, Header, Kind};
use super::srtp::{Key, Opener, Refused, Sealer};
use super::{LegKind, MediaError, sdp};
use bytes::BytesMut;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long packets under the key before the current one still count, once the current one is in use: what the network
/// may hold back.
const OLD_KEY: Duration = Duration::from_secs(5);
/// Keys before the current one that are kept: the one in use, and two announced since that may come into use.
const MAX_OLD_KEYS: usize = 3;
/// How long an answerer keeps sending under the old key when the far end, silent, does not show that it has the new one.
const NEW_KEY: Duration = Duration::from_secs(2);
/// Packets sent to an address of a description from which nothing genuine has come yet: 30 s of speech. A stranger's
/// description must not point a stream at somebody else for longer than that.
const UNCONFIRMED_PACKETS: u32 = 1_500;

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Not RTP or RTCP.
    Malformed,
    /// From somebody else.
    Source,
    /// One SSRC too many.
    Ssrc,
    /// Altered, replayed or made with another key.
    Forged,
    /// Its sequence number was sent before under this key.
    Reused,
    /// No key, no address or no other side yet.
    NotReady,
    /// Nothing genuine has come from where it would go.
    Unconfirmed,
    /// The socket did not take it.
    Socket,
    /// A check of a path that proves nothing.
    Check,
    /// An address of the far end that cannot be used, or a message about such that is none.
    Candidate,
}

impl Reason {
    pub(super) const ALL: [Reason; 10] = [
        Reason::Malformed,
        Reason::Source,
        Reason::Ssrc,
        Reason::Forged,
        Reason::Reused,
        Reason::NotReady,
        Reason::Unconfirmed,
        Reason::Socket,
        Reason::Check,
        Reason::Candidate,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Source => "source",
            Reason::Ssrc => "ssrc",
            Reason::Forged => "forged",
            Reason::Reused => "reused",
            Reason::NotReady => "not_ready",
            Reason::Unconfirmed => "unconfirmed",
            Reason::Socket => "socket",
            Reason::Check => "check",
            Reason::Candidate => "candidate",
        }
    }

    /// Whether the packet itself was at fault. What concerns paths alone is counted elsewhere.
    pub(super) const fn is_refusal(self) -> bool {
        matches!(self, Reason::Malformed | Reason::Source | Reason::Ssrc | Reason::Forged | Reason::Reused)
    }
}

impl From<Stranger> for Reason {
    fn from(stranger: Stranger) -> Reason {
        match stranger {
            Stranger::Source => Reason::Source,
            Stranger::Ssrc => Reason::Ssrc,
        }
    }
}

impl From<Refused> for Reason {
    fn from(refused: Refused) -> Reason {
        match refused {
            Refused::Forged => Reason::Forged,
            Refused::Reused => Reason::Reused,
        }
    }
}

/// A packet as it was, or a changed copy.
pub(super) enum Packet<'a> {
    Same(&'a [u8]),
    Changed(BytesMut),
}

impl std::ops::Deref for Packet<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Packet::Same(packet) => packet,
            Packet::Changed(packet) => packet,
        }
    }
}

/// A key that the far end announced before its current one. It may still be the one in use: an offer can fail, and on
/// hold there are no packets to show which it is.
struct OldKey {
    opener: Opener,
    was_in_use: bool,
    /// Set once a newer key has opened something.
    ends: Option<Instant>,
}

/// The keys of one stream.
#[derive(Default)]
struct Keys {
    opener: Option<Opener>,
    /// Whether that one has opened something.
    in_use: bool,
    /// Those before, the newest last.
    old: Vec<OldKey>,
    sealer: Option<Sealer>,
    /// Announced in an answer, in use once the far end shows that it has it.
    next: Option<(Sealer, Instant)>,
    /// Announced in an offer, in use when the answer comes.
    offered: Option<Sealer>,
}

pub(super) struct Gate {
    kind: LegKind,
    /// Our own SSRC, for keepalives.
    ssrc: u32,
    secure: bool,
    rtp: Latch,
    rtcp: Latch,
    keys: Keys,
    budget: u32,
    /// The far end looks for a path with us: nothing is sent on a guess.
    awaits_path: bool,
}

impl Gate {
    /// `ssrc` is random, our own.
    pub(super) fn new(kind: LegKind, ssrc: u32) -> Gate {
        Gate {
            kind,
            ssrc,
            secure: kind == LegKind::Peer,
            rtp: Latch::default(),
            rtcp: Latch::default(),
            keys: Keys::default(),
            budget: UNCONFIRMED_PACKETS,
            awaits_path: false,
        }
    }

    /// The host that the far end's signalling comes from.
    pub(super) fn expect(mut self, host: Option<IpAddr>) -> Gate {
        self.rtp.expect(host);
        self.rtcp.expect(host);
        self
    }

    /// Packets go to `remote`, the far end of a checked path; `None`: no path is known to work.
    pub(super) fn choose(&mut self, remote: Option<SocketAddr>) {
        self.rtp.choose(remote);
    }

    /// A path is looked for from both ends: what the description says is no longer tried.
    pub(super) fn await_path(&mut self) {
        self.awaits_path = true;
    }

    /// Whether the far end speaks SRTP.
    pub(super) fn secure(&self) -> bool {
        self.secure
    }

    /// The far end described itself; `key` is the one of its keys that was chosen.
    ///
    /// # Errors
    /// `NoCrypto` for plain RTP from a peer or SRTP without a key; `Io` when the cipher is not to be had.
    pub(super) fn accept(&mut self, remote: &sdp::Stream, key: Option<&Key>) -> Result<(), MediaError> {
        match (self.kind, remote.secure, key) {
            (LegKind::Phone, false, _) => {
                self.secure = false;
                self.keys = Keys::default();
            }
            (_, true, Some(key)) => {
                self.secure = true;
                self.accept_key(key)?;
            }
            (LegKind::Peer, false, _) | (_, true, None) => return Err(MediaError::NoCrypto),
        }
        self.rtp.describe(remote.rtp);
        self.rtcp.describe(remote.rtcp);
        Ok(())
    }

    fn accept_key(&mut self, key: &Key) -> Result<(), MediaError> {
        if !self.keys.opener.as_ref().is_some_and(|opener| opener.has(key)) {
            let before = self.keys.opener.replace(Opener::new(key.clone())?);
            let was_in_use = std::mem::take(&mut self.keys.in_use);
            let old = &mut self.keys.old;
            old.extend(before.map(|opener| OldKey { opener, was_in_use, ends: None }));
            if old.len() > MAX_OLD_KEYS {
                // The newest may come into use, one that was may still be; of the others the first goes.
                let unused = old.iter().take(MAX_OLD_KEYS).position(|key| !key.was_in_use);
                old.remove(unused.unwrap_or(0));
            }
        }
        if let Some(sealer) = self.keys.offered.take() {
            self.keys.sealer = Some(sealer);
            self.keys.next = None;
        }
        Ok(())
    }

    /// Our next key goes out in an offer.
    pub(super) fn offer_key(&mut self, key: &Key) -> Result<(), MediaError> {
        self.keys.offered = Some(Sealer::new(key)?);
        Ok(())
    }

    /// Our next key goes out in an answer.
    pub(super) fn answer_key(&mut self, key: &Key, now: Instant) -> Result<(), MediaError> {
        let sealer = Sealer::new(key)?;
        match self.keys.sealer {
            None => self.keys.sealer = Some(sealer),
            Some(_) => self.keys.next = Some((sealer, now)),
        }
        Ok(())
    }

    /// Judges a packet from the far end and returns it in the clear.
    pub(super) fn inward<'a>(
        &mut self,
        from: SocketAddr,
        packet: &'a [u8],
        now: Instant,
    ) -> Result<(Header, Packet<'a>), Reason> {
        let header = packet::read(packet).ok_or(Reason::Malformed)?;
        if !self.secure {
            self.latch(header.kind).admit(from, header.ssrc, now)?;
            return Ok((header, Packet::Same(packet)));
        }
        let known = self.keys.opener.as_ref().ok_or(Reason::NotReady)?.knows(&header);
        let latch = self.latch(header.kind);
        if !known && latch.settled() && !latch.is_from(from) {
            return Err(Reason::Source);
        }
        let opened = self.open(&header, packet, now)?;
        self.latch(header.kind).follow(from, header.ssrc, now);
        Ok((header, Packet::Changed(opened)))
    }

    fn open(&mut self, header: &Header, packet: &[u8], now: Instant) -> Result<BytesMut, Reason> {
        let Keys { opener, in_use, old, sealer, next, .. } = &mut self.keys;
        let refused = match opener.as_mut().ok_or(Reason::NotReady)?.open(header, packet) {
            Ok(opened) => {
                *in_use = true;
                if let Some((new, _)) = next.take() {
                    *sealer = Some(new);
                }
                retire(old, now);
                return Ok(opened);
            }
            Err(refused) => refused,
        };
        for at in (0..old.len()).rev() {
            if let Ok(opened) = old[at].opener.open(header, packet) {
                old[at].was_in_use = true;
                retire_before(old, at, now);
                return Ok(opened);
            }
        }
        Err(refused.into())
    }

    /// Makes a plain packet ready for the far end: what to send, and where to.
    pub(super) fn outward<'a>(
        &mut self,
        header: &Header,
        packet: &'a [u8],
        now: Instant,
    ) -> Result<(Packet<'a>, SocketAddr), Reason> {
        let latch = self.latch(header.kind);
        let (mut target, confirmed) = (latch.target().ok_or(Reason::NotReady)?, latch.confirmed());
        if self.kind == LegKind::Peer && !confirmed {
            if self.awaits_path {
                return Err(Reason::NotReady);
            }
            target = self.latch(header.kind).careful_target().ok_or(Reason::NotReady)?;
            self.budget = self.budget.checked_sub(1).ok_or(Reason::Unconfirmed)?;
        }
        if !self.secure {
            return Ok((Packet::Same(packet), target));
        }
        if let Some((new, _)) = self.keys.next.take_if(|(_, since)| now.saturating_duration_since(*since) >= NEW_KEY) {
            self.keys.sealer = Some(new);
        }
        let sealer = self.keys.sealer.as_mut().ok_or(Reason::NotReady)?;
        Ok((Packet::Changed(sealer.seal(header, packet)?), target))
    }

    /// A packet that shows a peer that we are here although nobody speaks, and keeps mappings of NATs open: an empty
    /// receiver report (RFC 6263 §4.6). It does not count as sent: one every few seconds harms nobody.
    pub(super) fn keepalive(&mut self) -> Option<(BytesMut, SocketAddr)> {
        if self.kind != LegKind::Peer {
            return None;
        }
        let target = match self.rtp.confirmed() {
            true => self.rtp.target()?,
            false if self.awaits_path => return None,
            false => self.rtp.careful_target()?,
        };
        let report = packet::empty_report(self.ssrc);
        let sealed = self.keys.sealer.as_mut()?.seal(&packet::read(&report)?, &report).ok()?;
        Some((sealed, target))
    }

    /// Peers send both kinds from one port.
    fn latch(&mut self, kind: Kind) -> &mut Latch {
        match (self.kind, kind) {
            (LegKind::Phone, Kind::Rtcp) => &mut self.rtcp,
            _ => &mut self.rtp,
        }
    }
}

/// A newer key than all of `old` is in use.
fn retire(old: &mut Vec<OldKey>, now: Instant) {
    retire_before(old, old.len(), now);
}

/// A newer key than the first `count` is in use: they end soon, and those whose time has come are gone.
fn retire_before(old: &mut Vec<OldKey>, count: usize, now: Instant) {
    for key in old.iter_mut().take(count) {
        key.ends.get_or_insert(now + OLD_KEY);
    }
    old.retain(|key| key.ends.is_none_or(|ends| now < ends));
}

#[cfg(test)]
mod tests;
