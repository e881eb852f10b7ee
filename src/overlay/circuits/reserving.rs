//! At which relays this node is reached: a pure machine. It is told which peers pass connections on, and what comes of
//! asking them; it says whom to connect to and whom to ask. Two at a time, in different networks if there are such, and a
//! few more in mind, so that a lost one is replaced at once.

use super::through::Through;
use crate::overlay::address::ip_of;
use crate::overlay::pulse::QUICK;
use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Relays at which a node that cannot be dialled is reached at the same time.
pub(in crate::overlay) const WANTED: usize = 2;

/// Relays that are remembered. Beyond, one that is not used gives way.
const MAX_KNOWN: usize = 64;

/// A relay that is not connected within this time is not there now.
const CONNECTING: Duration = Duration::from_secs(6);

/// An answer that has not come after this time is not waited for; the crate ends it after 60 s.
const ANSWERING: Duration = Duration::from_secs(10);

/// A relay that failed is asked again after this, doubling up to the other.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_AT_MOST: Duration = Duration::from_secs(600);

/// A relay that answers pings and then none for so long is dead: one of them, and what loss and a short break make of it.
/// There are some that never answer, and some that answer every other one (rust-libp2p's, over a quiet QUIC connection).
const SILENT: Duration = QUICK.saturating_add(Duration::from_secs(4));

/// A reservation that was held for so long makes up for a failure before.
const PROVED: Duration = Duration::from_secs(300);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::overlay) enum Step {
    /// Connect to the relay; then it is asked.
    Connect(Through),
    /// Ask it, over the connection that is there: listen at its circuit address.
    Reserve(Through),
    /// Give the reservation back.
    Release(ListenerId),
    /// It is dead, though no connection says so: close them.
    HangUp(PeerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Connecting { since: Instant },
    Asked { listener: ListenerId, since: Instant },
    Held { listener: ListenerId, since: Instant },
}

#[derive(Clone, Debug)]
struct Relay {
    at: Multiaddr,
    state: State,
    failures: u32,
    not_before: Option<Instant>,
    round_trip: Option<Duration>,
    /// When it last answered a ping.
    heard_at: Option<Instant>,
    /// It answered the last two, as often as held ones are asked.
    steady: bool,
    seen_at: Instant,
}

impl Relay {
    /// Takes part in what is wanted: held, or likely to be so soon.
    fn counts(&self, now: Instant) -> bool {
        match self.state {
            State::Idle => false,
            State::Connecting { .. } | State::Held { .. } => true,
            State::Asked { since, .. } => now.saturating_duration_since(since) < ANSWERING,
        }
    }

    fn failed(&mut self, now: Instant) {
        self.state = State::Idle;
        self.failures = self.failures.saturating_add(1);
        let pause = AGAIN.saturating_mul(1 << self.failures.min(10).saturating_sub(1));
        self.not_before = Some(now + pause.min(AGAIN_AT_MOST));
    }
}

/// The relays that are known, and what they do for this node.
#[derive(Default)]
pub(in crate::overlay) struct Reserving {
    relays: HashMap<PeerId, Relay>,
    wanted: usize,
}

/// A /16 of IPv4, a /32 of IPv6: what is likely to fail together, and to be one owner's.
fn network(address: &Multiaddr) -> Option<[u8; 4]> {
    Some(match ip_of(address)?.to_canonical() {
        IpAddr::V4(v4) => [4, v4.octets()[0], v4.octets()[1], 0],
        IpAddr::V6(v6) => [v6.octets()[0], v6.octets()[1], v6.octets()[2], v6.octets()[3]],
    })
}

impl Reserving {
    /// At how many relays this node wants to be reached.
    pub(in crate::overlay) fn want(&mut self, wanted: usize) {
        self.wanted = wanted;
    }

    /// `relay` passes connections on, and was reached at `at`.
    pub(in crate::overlay) fn known(&mut self, relay: PeerId, at: &Multiaddr, now: Instant) {
        if let Some(known) = self.relays.get_mut(&relay) {
            known.seen_at = now;
            if matches!(known.state, State::Idle | State::Connecting { .. }) {
                known.at = at.clone();
            }
            return;
        }
        if self.relays.len() >= MAX_KNOWN {
            let idle = self.relays.iter().filter(|(_, known)| known.state == State::Idle);
            let worst = idle.max_by_key(|(_, known)| (known.failures, std::cmp::Reverse(known.seen_at)));
            let Some(worst) = worst.map(|(peer, _)| *peer) else { return };
            self.relays.remove(&worst);
        }
        let fresh = Relay {
            at: at.clone(),
            state: State::Idle,
            failures: 0,
            not_before: None,
            round_trip: None,
            heard_at: None,
            steady: false,
            seen_at: now,
        };
        self.relays.insert(relay, fresh);
    }

    /// A peer says that it passes nothing on (any more).
    pub(in crate::overlay) fn retired(&mut self, relay: &PeerId) {
        if self.relays.get(relay).is_some_and(|known| matches!(known.state, State::Idle | State::Connecting { .. })) {
            self.relays.remove(relay);
        }
    }

    /// Relays that are held, or may be soon.
    pub(in crate::overlay) fn hopeful(&self, now: Instant) -> usize {
        let may = |known: &&Relay| {
            known.counts(now) || known.state == State::Idle && known.not_before.is_none_or(|at| now >= at)
        };
        self.relays.values().filter(may).count()
    }

    /// It answered a ping, and how long that took.
    pub(in crate::overlay) fn heard(&mut self, relay: &PeerId, round_trip: Duration, now: Instant) {
        if let Some(known) = self.relays.get_mut(relay) {
            known.round_trip = Some(round_trip);
            let since = known.heard_at.replace(now).map(|at| now.saturating_duration_since(at));
            // Each connection begins with one.
            if since.is_none_or(|since| since >= QUICK / 2) {
                known.steady = since.is_some_and(|since| since < SILENT);
            }
        }
    }

    /// The next thing to do at `now`, if any; again until there is none. `connected`: directly, and not about to close.
    pub(in crate::overlay) fn poll(&mut self, now: Instant, connected: impl Fn(&PeerId) -> bool) -> Option<Step> {
        let held = self.held();
        let too_many = held.len().saturating_sub(self.wanted);
        // Who has held longest has proved most.
        let spare: Vec<PeerId> = held.iter().rev().take(too_many).map(|through| through.relay).collect();
        for (peer, known) in &mut self.relays {
            match known.state {
                State::Connecting { .. } if connected(peer) => {
                    return Some(Step::Reserve(Through { relay: *peer, at: known.at.clone() }));
                }
                State::Connecting { since } if now.saturating_duration_since(since) >= CONNECTING => known.failed(now),
                // Never while the answer is on its way: the crate cannot bear it.
                State::Held { listener, .. } if spare.contains(peer) => {
                    known.state = State::Idle;
                    return Some(Step::Release(listener));
                }
                State::Held { .. }
                    if known.steady && known.heard_at.is_some_and(|at| now.saturating_duration_since(at) >= SILENT) =>
                {
                    known.steady = false;
                    return Some(Step::HangUp(*peer));
                }
                State::Idle | State::Connecting { .. } | State::Asked { .. } | State::Held { .. } => {}
            }
        }
        if self.relays.values().filter(|known| known.counts(now)).count() >= self.wanted {
            return None;
        }
        let used: Vec<_> = self.relays.values().filter(|r| r.counts(now)).map(|r| network(&r.at)).collect();
        let free = |known: &Relay| known.state == State::Idle && known.not_before.is_none_or(|at| now >= at);
        let rank = |peer: &PeerId, known: &Relay| {
            let time = known.round_trip.unwrap_or(Duration::from_millis(200));
            (used.contains(&network(&known.at)), known.failures, !connected(peer), time, *peer)
        };
        let best = self.relays.iter().filter(|(_, known)| free(known)).min_by_key(|(peer, known)| rank(peer, known));
        let peer = best.map(|(peer, _)| *peer)?;
        let known = self.relays.get_mut(&peer)?;
        known.state = State::Connecting { since: now };
        let through = Through { relay: peer, at: known.at.clone() };
        Some(if connected(&peer) { Step::Reserve(through) } else { Step::Connect(through) })
    }

    /// It is asked, by this listener. Only after [`Step::Reserve`].
    pub(in crate::overlay) fn asked(&mut self, relay: &PeerId, listener: ListenerId, now: Instant) {
        if let Some(known) = self.relays.get_mut(relay) {
            known.state = State::Asked { listener, since: now };
        }
    }

    /// A relay could not be asked, or be connected to.
    pub(in crate::overlay) fn failed(&mut self, relay: &PeerId, now: Instant) {
        if let Some(known) = self.relays.get_mut(relay)
            && matches!(known.state, State::Connecting { .. })
        {
            known.failed(now);
        }
    }

    /// It said yes. `true`: this is news.
    pub(in crate::overlay) fn granted(&mut self, relay: &PeerId, now: Instant) -> bool {
        let Some(known) = self.relays.get_mut(relay) else { return false };
        match known.state {
            State::Asked { listener, .. } => {
                known.state = State::Held { listener, since: now };
                true
            }
            State::Held { .. } | State::Idle | State::Connecting { .. } => false,
        }
    }

    /// A listener has closed: the relay said no, went, or forgot us. `true`: we were reached there.
    pub(in crate::overlay) fn closed(&mut self, listener: ListenerId, now: Instant) -> bool {
        for known in self.relays.values_mut() {
            match known.state {
                State::Held { listener: own, since } if own == listener => {
                    if now.saturating_duration_since(since) >= PROVED {
                        known.failures = 0;
                    }
                    known.failed(now);
                    return true;
                }
                State::Asked { listener: own, .. } if own == listener => {
                    known.failed(now);
                    return false;
                }
                State::Held { .. } | State::Asked { .. } | State::Idle | State::Connecting { .. } => {}
            }
        }
        false
    }

    /// Where this node is reached now, the longest held first.
    pub(in crate::overlay) fn held(&self) -> Vec<Through> {
        let mut held: Vec<(Instant, Through)> = Vec::new();
        for (peer, known) in &self.relays {
            if let State::Held { since, .. } = known.state {
                held.push((since, Through { relay: *peer, at: known.at.clone() }));
            }
        }
        held.sort_by_key(|(since, through)| (*since, through.relay));
        held.into_iter().map(|(_, through)| through).collect()
    }
}

#[cfg(test)]
mod tests;
