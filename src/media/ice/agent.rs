//! The ICE agent of the crate `is` for one generation, and what it leaves to its user: an answer counts only from where
//! the question went (RFC 8445 §7.2.5.2.1), nothing goes to an address beyond what `guard` allows, and what a far end
//! with the right password may make it remember is bounded. Pure: the time is an argument.

use super::guard::Guard;
use super::message::{Candidate, Kind};
use super::stun::{self, Class, Transaction};
use is::stun::{StunMessage, StunPacket};
use is::{CandidateKind, IceAgent, IceAgentEvent, IceCreds, Protocol};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Pause between two checks, whatever they are of (RFC 8445 §14.2 allows 5 ms where there is speech of more).
const PACE: Duration = Duration::from_millis(15);
/// First pause of a check without an answer, and the longest, which is also how often a path that works shows that it
/// still does. RFC 7675 is content with 5 s; a listener is not. Some 3 kbit/s for each path and direction.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(600);
/// Pairs that are checked: three sockets, and twelve addresses of which one family fits.
const MOST_PAIRS: usize = 40;
/// Questions on the way, and addresses that answers say we have.
const MOST_ASKED: usize = 256;
const MOST_MAPPED: usize = 16;

pub(super) struct Agent {
    ice: IceAgent,
    credentials: IceCreds,
    asked: VecDeque<(Transaction, SocketAddr)>,
    mapped: Vec<SocketAddr>,
}

/// A packet to be sent from one of our sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transmit {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) packet: Vec<u8>,
}

/// A message of the far end that proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It knows our password: the source may be forged.
    Asked,
    /// It saw what we sent there.
    Answered,
}

impl Agent {
    pub(super) fn new(controlling: bool, now: Instant) -> Agent {
        let credentials = IceCreds::new();
        let mut ice = IceAgent::new(credentials.clone());
        ice.set_controlling(controlling);
        ice.set_timing_advance(PACE);
        ice.set_initial_stun_rto(FIRST_PAUSE);
        ice.set_max_stun_rto(LONGEST_PAUSE);
        ice.set_max_candidate_pairs(MOST_PAIRS);
        // From here on it knows the time.
        ice.handle_timeout(now);
        Agent { ice, credentials, asked: VecDeque::new(), mapped: Vec::new() }
    }

    pub(super) fn ufrag(&self) -> &str {
        &self.credentials.ufrag
    }

    pub(super) fn pwd(&self) -> &str {
        &self.credentials.pass
    }

    /// One of our sockets: its candidate, unless it is there already or nobody can be at that address.
    pub(super) fn add_local(&mut self, address: SocketAddr) -> Option<Candidate> {
        let host = is::Candidate::host(address, Protocol::Udp).ok()?;
        let added = self.ice.add_local_candidate(host)?;
        Some(Candidate { address, kind: Kind::Host, priority: added.prio() })
    }

    pub(super) fn remove_local(&mut self, address: SocketAddr) {
        if let Ok(host) = is::Candidate::host(address, Protocol::Udp) {
            self.ice.invalidate_candidate(&host);
        }
    }

    /// Who is at the far end. `false`: somebody else was named before.
    pub(super) fn set_remote(&mut self, ufrag: &str, pwd: &str) -> bool {
        let remote = IceCreds { ufrag: ufrag.to_owned(), pass: pwd.to_owned() };
        match self.ice.remote_credentials() {
            Some(known) => *known == remote,
            None => {
                self.ice.set_remote_credentials(remote);
                true
            }
        }
    }

    pub(super) fn has_remote(&self) -> bool {
        self.ice.remote_credentials().is_some()
    }

    /// An address of the far end, which `guard` has admitted.
    pub(super) fn add_remote(&mut self, candidate: &Candidate) {
        let kind = match candidate.kind {
            Kind::Host => CandidateKind::Host,
            Kind::Reflexive => CandidateKind::ServerReflexive,
            Kind::Relayed => CandidateKind::Relayed,
        };
        let Candidate { address, priority, .. } = *candidate;
        let foundation = format!("{}", address.port());
        let udp = Protocol::Udp;
        self.ice.add_remote_candidate(is::Candidate::from_parts(
            foundation, 1, udp, priority, address, kind, None, None, None,
        ));
    }

    /// A STUN packet came to our socket `to`. `None`: forged, out of place, or too much.
    pub(super) fn handle_packet(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        packet: &[u8],
        guard: &mut Guard,
        now: Instant,
    ) -> Option<Proof> {
        let (class, transaction) = stun::look_over(packet)?;
        if class != Class::Request && !self.asked.contains(&(transaction, from)) {
            return None;
        }
        let message = StunMessage::parse(packet).ok()?;
        if !self.ice.accepts_message(&message) {
            return None;
        }
        if class == Class::Request && !guard.admit(from) {
            return None;
        }
        if let Some(mapped) = message.mapped_address().filter(|mapped| !self.mapped.contains(mapped)) {
            if self.mapped.len() >= MOST_MAPPED {
                return None;
            }
            self.mapped.push(mapped);
        }
        let proto = Protocol::Udp;
        if !self.ice.handle_packet(now, StunPacket { proto, source: from, destination: to, message }) {
            return None;
        }
        // An answer to one question counts once.
        self.asked.retain(|asked| asked.0 != transaction);
        match class {
            Class::Request => Some(Proof::Asked),
            Class::Success => {
                guard.consented(from);
                Some(Proof::Answered)
            }
            Class::Error => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.ice.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.ice.poll_timeout()
    }

    pub(super) fn poll_transmit(&mut self, guard: &mut Guard) -> Option<Transmit> {
        while let Some(transmit) = self.ice.poll_transmit() {
            let (from, to, packet) = (transmit.source, transmit.destination, transmit.contents.to_vec());
            if !guard.may_send(to) {
                continue;
            }
            if let Some((Class::Request, transaction)) = stun::look_over(&packet) {
                if self.asked.len() >= MOST_ASKED {
                    self.asked.pop_front();
                }
                self.asked.push_back((transaction, to));
            }
            return Some(Transmit { from, to, packet });
        }
        None
    }

    /// The pair that both ends agreed upon anew: our socket and the far address.
    pub(super) fn poll_nominated(&mut self) -> Option<(SocketAddr, SocketAddr)> {
        let mut nominated = None;
        while let Some(event) = self.ice.poll_event() {
            if let IceAgentEvent::NominatedSend { source, destination, .. } = event {
                nominated = Some((source, destination));
            }
        }
        nominated
    }
}
