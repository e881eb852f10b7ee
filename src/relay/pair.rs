//! The two ends of an allocation: whose packets count, and where they go on to. Pure; packets are looked at, never
//! opened: both parties encrypt to each other.
//!
//! Nothing is sent to anybody who has not sent first. The first source at a port is *held*. Sources change (a NAT forgets,
//! a laptop leaves the house), and ports can be guessed, so the held source moves only when the far end vouches for the new
//! one: it answers its ICE check (RFC 8445 §7.3), which nobody can get answered without the password of this call. A source
//! in the network from which the node asked for the allocation counts as vouched for until then; one that has been silent
//! for longer than consent lasts between two checks counts for nothing.

use super::places::Places;
use crate::admission::{Bucket, Rate, Subnet};
use crate::wire::stun::{self, Class, TransactionId};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Which port: the one for who asked, or the one for the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Ours = 0,
    Theirs = 1,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Ours => Self::Theirs,
            Self::Theirs => Self::Ours,
        }
    }
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Neither STUN nor RTP, too short or too long.
    Shape,
    /// From where nothing may be sent to.
    Place,
    /// From somebody whom nobody vouched for.
    Stranger,
    /// More than the allocation may carry.
    Rate,
    /// Nobody has sent at the other port yet.
    Nobody,
}

impl Dropped {
    pub(super) const ALL: [Self; 5] = [Self::Shape, Self::Place, Self::Stranger, Self::Rate, Self::Nobody];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::Place => "place",
            Self::Stranger => "stranger",
            Self::Rate => "rate",
            Self::Nobody => "nobody",
        }
    }
}

/// Longest packet that is passed on, bytes: what a path of 1,500 carries.
pub(super) const MAX_PACKET: usize = 1_472;
/// Shortest: the header of RTP.
const MIN_PACKET: usize = 12;
/// What a packet costs beside its contents: IPv4 and UDP headers, bytes.
pub(super) const OVERHEAD: usize = 28;

/// ICE asks for consent every 5 s and gives up after 30 (RFC 7675 §5.1): three answers missed.
const SILENT: Duration = Duration::from_secs(15);

/// For so long after the first packet of all, who comes from where the allocation was asked for takes the place of whoever
/// was quicker, whatever those have told each other.
const YOUNG: Duration = Duration::from_secs(10);

/// Sources remembered beside the held one: of a laptop with two networks and of a few liars.
const OTHERS: usize = 3;
/// Checks of which the asker is remembered.
const ASKED: usize = 16;

/// Newcomers at a port, and checks that go to more than one source: a path change needs two.
const NEWCOMERS: Rate = Rate { per_second: 4.0, burst: 8.0 };
const SPREAD: Rate = Rate { per_second: 10.0, burst: 20.0 };

/// Longest check that is spread, bytes: ICE's have about 100.
const MAX_SPREAD: usize = 256;

/// What may come in a burst: so many seconds of the rate.
const BURST: f64 = 2.0;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Targets {
    pub(super) first: SocketAddr,
    pub(super) more: [Option<SocketAddr>; OTHERS],
}

#[derive(Clone, Copy, Debug)]
struct Source {
    address: SocketAddr,
    at: Instant,
    /// The far end answered it, or it is where the allocation was asked for.
    vouched: bool,
    /// The far end answered its check: it is of the call, be it held or not. A host with two families has two sources, and
    /// speaks from the one that it has chosen.
    answered: bool,
}

#[derive(Debug)]
struct Port {
    hint: Option<Subnet>,
    /// When anybody came first.
    since: Option<Instant>,
    held: Option<Source>,
    others: [Option<Source>; OTHERS],
    asked: [Option<(TransactionId, SocketAddr)>; ASKED],
    next: usize,
    tokens: f64,
    filled: Instant,
    newcomers: Bucket,
}

/// An allocation's packets.
#[derive(Debug)]
pub(super) struct Pair {
    ports: [Port; 2],
    /// Bytes a second of each direction.
    rate: f64,
    spread: Bucket,
}

impl Pair {
    /// `hints`: from where the two ends talk to this relay otherwise, if they do. `bits_per_second`: of both directions
    /// together, half for each.
    pub(super) fn new(hints: [Option<IpAddr>; 2], bits_per_second: u32, now: Instant) -> Self {
        let rate = f64::from(bits_per_second) / 16.0;
        let port = |hint: Option<IpAddr>| Port {
            hint: hint.map(Subnet::of),
            since: None,
            held: None,
            others: [None; OTHERS],
            asked: [None; ASKED],
            next: 0,
            tokens: rate * BURST,
            filled: now,
            newcomers: Bucket::full(NEWCOMERS, now),
        };
        Self { ports: hints.map(port), rate, spread: Bucket::full(SPREAD, now) }
    }

    /// A packet came to `end` from `from`: where it goes.
    pub(super) fn came(
        &mut self,
        end: End,
        from: SocketAddr,
        packet: &[u8],
        places: &Places,
        now: Instant,
    ) -> Result<Targets, Dropped> {
        if !(MIN_PACKET..=MAX_PACKET).contains(&packet.len()) {
            return Err(Dropped::Shape);
        }
        // RFC 7983: what else may be on such a port is not for a relay of calls.
        let stun = match packet[0] {
            128..=191 => None,
            0..=3 => Some(stun::look(packet).ok_or(Dropped::Shape)?),
            _ => return Err(Dropped::Shape),
        };
        let rate = self.rate;
        let port = &mut self.ports[end as usize];
        let known = port.is_held(from);
        if !known {
            let asks = matches!(stun, Some((Class::Request, _)));
            if port.newcomer(from, asks, stun.is_some(), places, now)? {
                // Nor is the other one believed any more whom the first had vouched for.
                self.ports[end.other() as usize].doubt();
            }
        }
        let port = &mut self.ports[end as usize];
        if !port.pay(packet.len(), rate, now) {
            return Err(Dropped::Rate);
        }
        if let Some(held) = port.held.as_mut().filter(|held| held.address == from) {
            held.at = now;
        }
        match stun {
            None => self.ports[end.other() as usize].only_held(),
            Some((Class::Request, id)) => {
                port.remember(id, from);
                let alone = port.standing(now) && port.is_held(from) && self.ports[end.other() as usize].standing(now);
                self.check(end, packet.len(), alone, now)
            }
            Some((Class::Success, id)) => self.answer(end, from, id, true, now),
            Some((Class::Error, id)) => self.answer(end, from, id, false, now),
            Some((Class::Indication, _)) => self.ports[end.other() as usize].only_held(),
        }
    }

    /// A check goes to whom the far end is, and while that is open to everybody who may be it.
    fn check(&mut self, end: End, length: usize, alone: bool, now: Instant) -> Result<Targets, Dropped> {
        let far = &self.ports[end.other() as usize];
        let mut targets = far.only_held()?;
        if !alone && length <= MAX_SPREAD && far.others.iter().any(Option::is_some) && self.spread.take(SPREAD, now) {
            targets.more = far.others.map(|other| other.map(|other| other.address));
        }
        Ok(targets)
    }

    /// An answer goes to who asked. A good one tells who that is.
    fn answer(
        &mut self,
        end: End,
        from: SocketAddr,
        id: TransactionId,
        good: bool,
        now: Instant,
    ) -> Result<Targets, Dropped> {
        let [near, far] = match end {
            End::Ours => {
                let [near, far] = &mut self.ports;
                [near, far]
            }
            End::Theirs => {
                let [far, near] = &mut self.ports;
                [near, far]
            }
        };
        let Some(asker) = far.asker(&id) else {
            // Later than is remembered: nobody moves by it.
            return if near.is_held(from) { far.only_held() } else { Err(Dropped::Stranger) };
        };
        if good {
            if !near.is_held(from) && !near.standing(now) {
                near.hold(from, false, now);
            }
            if near.is_held(from) && (near.standing(now) || !far.standing(now)) {
                far.hold(asker, true, now);
            }
        }
        Ok(Targets { first: asker, more: [None; OTHERS] })
    }
}

impl Port {
    fn is_held(&self, from: SocketAddr) -> bool {
        self.held.is_some_and(|held| held.address == from)
    }

    /// The held source is vouched for, and there.
    fn standing(&self, now: Instant) -> bool {
        self.held.is_some_and(|held| held.vouched && now.saturating_duration_since(held.at) < SILENT)
    }

    fn only_held(&self) -> Result<Targets, Dropped> {
        let held = self.held.ok_or(Dropped::Nobody)?;
        Ok(Targets { first: held.address, more: [None; OTHERS] })
    }

    /// A packet from another source than the held one. Lets it through if it is a check, or an answer of one who was
    /// asked; true if it takes the place of who was quicker.
    fn newcomer(
        &mut self,
        from: SocketAddr,
        asks: bool,
        stun: bool,
        places: &Places,
        now: Instant,
    ) -> Result<bool, Dropped> {
        let expected = self.expects(from);
        let source = Source { address: from, at: now, vouched: expected, answered: false };
        if self.held.is_none() {
            if !places.allow(from) {
                return Err(Dropped::Place);
            }
            self.held = Some(source);
            self.since = Some(now);
            return Ok(false);
        }
        if let Some(known) = self.others.iter_mut().flatten().find(|other| other.address == from) {
            let consents = known.answered && now.saturating_duration_since(known.at) < SILENT;
            known.at = now;
            return match stun {
                true => Ok(false),
                false if consents => {
                    self.hold(from, true, now);
                    Ok(false)
                }
                false => Err(Dropped::Stranger),
            };
        }
        if !asks {
            return Err(Dropped::Stranger);
        }
        if !places.allow(from) {
            return Err(Dropped::Place);
        }
        if !self.newcomers.take(NEWCOMERS, now) {
            return Err(Dropped::Stranger);
        }
        let young = self.since.is_some_and(|since| now.saturating_duration_since(since) < YOUNG);
        let takes = expected && young && self.held.is_some_and(|held| !self.expects(held.address));
        let other = if takes { self.held.replace(source) } else { Some(source) };
        self.keep(other.map(|other| Source { vouched: false, answered: false, ..other }));
        Ok(takes)
    }

    fn expects(&self, from: SocketAddr) -> bool {
        self.hint.is_some_and(|hint| hint == Subnet::of(from.ip()))
    }

    fn doubt(&mut self) {
        let expected = self.held.is_some_and(|held| self.expects(held.address));
        if let Some(held) = &mut self.held {
            held.vouched = expected;
        }
        self.held.iter_mut().chain(self.others.iter_mut().flatten()).for_each(|source| source.answered = false);
    }

    /// Among the others; the one that was silent for longest makes room.
    fn keep(&mut self, source: Option<Source>) {
        let oldest = self.others.iter_mut().min_by_key(|other| other.map(|other| other.at));
        if let (Some(place), Some(_)) = (oldest, source) {
            *place = source;
        }
    }

    /// `to` is the one: known here, or it asked from here.
    fn hold(&mut self, to: SocketAddr, vouched: bool, now: Instant) {
        if let Some(held) = self.held.as_mut().filter(|held| held.address == to) {
            held.vouched |= vouched;
            held.answered |= vouched;
            return;
        }
        if let Some(place) = self.others.iter_mut().find(|other| other.is_some_and(|other| other.address == to)) {
            let before = self.held.replace(Source { address: to, at: now, vouched, answered: vouched });
            // Unless its check was answered, who was held is as strange now as anybody.
            *place = before.map(|before| Source { vouched: false, ..before });
        }
    }

    fn remember(&mut self, id: TransactionId, from: SocketAddr) {
        // A check is repeated under its id; who says the id of another's does not get its answer.
        if self.asker(&id).is_none() {
            self.asked[self.next] = Some((id, from));
            self.next = (self.next + 1) % ASKED;
        }
    }

    fn asker(&self, id: &TransactionId) -> Option<SocketAddr> {
        self.asked.iter().flatten().find(|(asked, _)| asked == id).map(|(_, from)| *from)
    }

    fn pay(&mut self, length: usize, rate: f64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * rate).min(rate * BURST);
        let cost = (length + OVERHEAD) as f64;
        let pays = self.tokens >= cost;
        if pays {
            self.tokens -= cost;
        }
        pays
    }
}

#[cfg(test)]
mod tests;
