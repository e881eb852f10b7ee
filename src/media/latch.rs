//! Symmetric RTP with a guard (RFC 4961, RFC 7362 §4): whose packets count as the phone's, and where the answers go.
//!
//! A phone behind a NAT sends from another address than its description names, so the first source that sends is
//! latched, once. A stranger who sprays ports later is refused: a latched leg moves only to the address of the
//! description, or together with the SSRC after a silence or a new description. Where the signalling of the far end comes
//! from is known: nobody from another host is latched at all. Pure: the time is an argument.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A source that has been quiet for so long may be succeeded by another one with its SSRC (a NAT gave the phone a new
/// mapping). 2 s: a hundred packets, longer than any jitter, short enough for a listener to wait.
pub(super) const QUIET: Duration = Duration::from_secs(2);

/// Distinct SSRCs between two descriptions. Phones take a new one on hold, transfer and codec changes.
pub(super) const MAX_SSRCS: usize = 16;

/// Why a packet does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// From another address than the latched one.
    Source,
    /// One SSRC too many.
    Ssrc,
}

#[derive(Debug, Default)]
pub(super) struct Latch {
    /// The host that signals, if that is known.
    host: Option<IpAddr>,
    /// A path that was found and checked.
    chosen: Option<SocketAddr>,
    stated: Option<SocketAddr>,
    held: Option<Held>,
    ssrcs: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    address: SocketAddr,
    ssrc: u32,
    /// Last packet; `None` after a new description, which counts as a silence.
    at: Option<Instant>,
}

impl Latch {
    /// Packets come from `host` or from the host of the description.
    pub(super) fn expect(&mut self, host: Option<IpAddr>) {
        self.host = host.map(|host| host.to_canonical());
    }

    /// A description names `address` (`None`: it names none, or holds the stream).
    pub(super) fn describe(&mut self, address: Option<SocketAddr>) {
        if self.stated != address {
            self.stated = address;
            self.held = None;
        }
        if let Some(held) = &mut self.held {
            held.at = None;
        }
        self.ssrcs.clear();
    }

    /// Where to send before anything genuine has come from a far end that we do not trust: to its own host only,
    /// whatever it says.
    pub(super) fn careful_target(&self) -> Option<SocketAddr> {
        let target = self.target()?;
        Some(self.host.map_or(target, |host| SocketAddr::new(host, target.port())))
    }

    /// Where to send.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        self.chosen.or(self.held.map(|held| held.address)).or(self.stated)
    }

    /// Packets go to `remote`, which has shown that it is there and who it is; `None`: as the rest says.
    pub(super) fn choose(&mut self, remote: Option<SocketAddr>) {
        self.chosen = remote;
    }

    /// Decides on a packet and moves the latch.
    pub(super) fn admit(&mut self, from: SocketAddr, ssrc: u32, now: Instant) -> Result<(), Stranger> {
        let follows = match self.held {
            None => self.is_host_of(from.ip()),
            Some(held) => {
                let quiet = held.at.is_none_or(|at| now.saturating_duration_since(at) >= QUIET);
                held.address == from
                    || self.stated == Some(from)
                    || (quiet && held.ssrc == ssrc && self.is_host_of(from.ip()))
            }
        };
        if !follows {
            return Err(Stranger::Source);
        }
        if !self.ssrcs.contains(&ssrc) {
            if self.ssrcs.len() >= MAX_SSRCS {
                return Err(Stranger::Ssrc);
            }
            self.ssrcs.push(ssrc);
        }
        self.held = Some(Held { address: from, ssrc, at: Some(now) });
        Ok(())
    }

    fn is_host_of(&self, ip: IpAddr) -> bool {
        let stated = self.stated.map(|stated| stated.ip().to_canonical());
        self.host.is_none() || self.host == Some(ip.to_canonical()) || stated == Some(ip.to_canonical())
    }

    /// Follows a packet that proved itself by its encryption: the newest source is right.
    pub(super) fn follow(&mut self, from: SocketAddr, ssrc: u32, now: Instant) {
        self.held = Some(Held { address: from, ssrc, at: Some(now) });
    }

    /// True once a packet has come from where we send to.
    pub(super) fn confirmed(&self) -> bool {
        self.held.is_some() || self.chosen.is_some()
    }

    /// True once a packet has come since the last description.
    pub(super) fn settled(&self) -> bool {
        self.held.is_some_and(|held| held.at.is_some())
    }

    /// Whether `from` is an address that the far end has named or used.
    pub(super) fn is_from(&self, from: SocketAddr) -> bool {
        self.stated == Some(from) || self.chosen == Some(from) || self.held.is_some_and(|held| held.address == from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn sends_to_the_description_until_a_packet_comes() {
        let (mut latch, now) = (Latch::default(), Instant::now());
        assert_eq!(latch.target(), None);
        latch.describe(Some(at(1)));
        assert_eq!(latch.target(), Some(at(1)));
        assert_eq!(latch.admit(at(2), 7, now), Ok(()));
        assert_eq!(latch.target(), Some(at(2)));
    }

    #[test]
    fn a_second_stranger_is_refused_but_the_stated_address_always_wins() {
        let (mut latch, now) = (Latch::default(), Instant::now());
        latch.describe(Some(at(1)));
        latch.admit(at(2), 7, now).unwrap();
        assert_eq!(latch.admit(at(3), 7, now), Err(Stranger::Source));
        assert_eq!(latch.admit(at(3), 8, now + QUIET * 2), Err(Stranger::Source), "quiet, but another SSRC");
        assert_eq!(latch.admit(at(1), 9, now), Ok(()));
        assert_eq!(latch.admit(at(2), 7, now), Err(Stranger::Source), "the first to come has lost its place");
    }

    #[test]
    fn follows_a_new_mapping_after_silence_or_a_new_description() {
        let (mut latch, now) = (Latch::default(), Instant::now());
        latch.describe(Some(at(1)));
        latch.admit(at(2), 7, now).unwrap();
        assert_eq!(latch.admit(at(3), 7, now + QUIET), Ok(()));
        latch.describe(Some(at(1)));
        assert_eq!(latch.target(), Some(at(3)), "the same description keeps the latch");
        assert_eq!(latch.admit(at(4), 7, now + QUIET), Ok(()));
        latch.describe(Some(at(9)));
        assert_eq!(latch.target(), Some(at(9)), "a new address breaks it");
    }

    #[test]
    fn nobody_from_another_host_is_latched_when_the_host_is_known() {
        let (mut latch, now) = (Latch::default(), Instant::now());
        let from = |host: u8, port| SocketAddr::from(([192, 0, 2, host], port));
        latch.expect(Some(from(7, 0).ip()));
        latch.describe(Some(at(1)));
        assert_eq!(latch.admit(from(66, 5), 7, now), Err(Stranger::Source), "a stranger was quicker");
        assert_eq!(latch.target(), Some(at(1)));
        assert_eq!(latch.admit(at(9), 7, now), Ok(()), "the host of the description, another port");
        assert_eq!(latch.admit(from(66, 5), 7, now + QUIET), Err(Stranger::Source), "with a guessed SSRC");
        assert_eq!(latch.admit(from(7, 5), 7, now + QUIET), Ok(()), "behind a NAT, where the signalling comes from");
    }

    #[test]
    fn a_far_end_cannot_point_us_at_a_third_host() {
        let mut latch = Latch::default();
        latch.describe(Some(at(1)));
        assert_eq!(latch.careful_target(), Some(at(1)), "nothing is known");
        latch.expect(Some([198, 51, 100, 9].into()));
        assert_eq!(latch.careful_target(), Some(([198, 51, 100, 9], 1).into()));
    }

    #[test]
    fn a_checked_path_is_sent_to_whatever_comes_from_elsewhere() {
        let (mut latch, now) = (Latch::default(), Instant::now());
        latch.describe(Some(at(1)));
        latch.choose(Some(at(2)));
        assert!(latch.confirmed() && latch.is_from(at(2)));
        latch.follow(at(3), 7, now);
        assert_eq!(latch.target(), Some(at(2)));
        latch.choose(None);
        assert_eq!(latch.target(), Some(at(3)), "where something genuine came from");
    }

    #[test]
    fn knows_a_bounded_number_of_ssrcs() {
        let (mut latch, now) = (Latch::default(), Instant::now());
        for ssrc in 0..100_000 {
            let verdict = latch.admit(at(1), ssrc, now);
            assert_eq!(verdict.is_ok(), (ssrc as usize) < MAX_SSRCS);
        }
        assert_eq!(latch.ssrcs.len(), MAX_SSRCS);
    }
}
