//! The SIP machine of a node, sans-IO: transactions, legs and trunks around the registrar. Bytes, commands and the time
//! come in; `Effect`s go out and are drained after each call. The driver owns sockets and clock, so a whole call can
//! be run in virtual time.
//!
//! ```text
//! bytes ─ guard ─ message ─┬─ response ─ client transaction ─ leg ─ event
//!                          └─ request ─ server transaction ─┬─ inside a dialog ─ leg ─ event
//!                                                           └─ outside: REGISTER, INVITE, OPTIONS
//! ```

mod accept;
mod commands;
mod dial;
mod inside;
mod receive;
mod register;
mod send;
mod timers;
mod trunk;

#[cfg(test)]
mod tests;

use super::address::UriParts;
use super::counts::Counts;
use super::dialog::Leg;
use super::flow::Flow;
use super::registrar::Registrar;
use super::transaction::{ClientTx, ServerTx};
use super::{BindId, LegId, SipEvent, SipLimits, TrunkId};
use crate::admission::{PerSource, Rate};
use bytes::Bytes;
use rsipstack::sip::Method;
use sha2::{Digest, Sha256};
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use timers::Entry;

/// Transactions kept at once. A finished one only absorbs repeats, so the oldest finished ones make room; 20,000 are
/// 2.5 s of 8,000 REGISTER/s and about 30 MB.
const MAX_TRANSACTIONS: usize = 20_000;
/// Trunks at once; `calls` opens them, one per far end.
const MAX_TRUNKS: usize = 4_096;
/// Answers that wait for their time (wrong passwords).
const MAX_HELD: usize = 1_024;
/// Source addresses with a token bucket.
const MAX_SOURCES: usize = 4_096;

/// What the driver is to do.
#[derive(Debug)]
pub(super) enum Effect {
    /// On UDP or TCP.
    Send {
        flow: Flow,
        bytes: Bytes,
    },
    Event(SipEvent),
    /// The stream has lost its framing or its peer misbehaves.
    Close {
        connection: u64,
    },
}

/// What a request belongs to (RFC 3261 §17.2.3), on its flow: nobody else's branch can be guessed into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerKey {
    flow: Flow,
    branch: String,
    sent_by: String,
    method: Method,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DialogKey {
    call_id: String,
    local_tag: String,
}

#[derive(Debug)]
struct Trunk {
    local: UriParts,
    local_uri: String,
    remote: UriParts,
    legs: HashSet<LegId>,
}

pub(super) struct Settings {
    pub realm: String,
    pub limits: SipLimits,
    /// Port of the UDP socket: contacts restored from an earlier run name the old one.
    pub udp_port: Option<u16>,
    /// Secret of this process, for tags and branches.
    pub key: [u8; 32],
}

pub(super) struct Core {
    settings: Settings,
    pub(super) registrar: Registrar,
    pub(super) counts: Counts,
    now: Instant,
    /// Boxed: tables of 20,000 grow to several times that many places, which should be small ones.
    servers: HashMap<u64, Box<ServerTx>>,
    server_ids: HashMap<Arc<ServerKey>, u64>,
    server_keys: HashMap<u64, Arc<ServerKey>>,
    /// Server transactions with a final response, oldest first: these may be forgotten early.
    finished: VecDeque<u64>,
    clients: HashMap<u64, Box<ClientTx>>,
    client_ids: HashMap<String, u64>,
    legs: HashMap<LegId, Leg>,
    dialogs: HashMap<DialogKey, LegId>,
    /// INVITEs at work by (Call-ID, From tag, CSeq), to refuse merged ones (§8.2.2.2).
    merging: HashMap<(String, String, u32), u64>,
    trunks: HashMap<TrunkId, Trunk>,
    connections: HashMap<u64, Flow>,
    binds: HashMap<BindId, u64>,
    held: HashMap<u64, (Flow, Bytes)>,
    timers: BinaryHeap<Entry>,
    effects: VecDeque<Effect>,
    sources: PerSource<IpAddr>,
    trunk_rates: PerSource<TrunkId>,
    leg_ids: Arc<AtomicU64>,
    next_id: u64,
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        registrar: Registrar,
        counts: Counts,
        leg_ids: Arc<AtomicU64>,
        now: Instant,
    ) -> Self {
        let SipLimits { requests_per_second, request_burst, .. } = settings.limits;
        let per_second = f64::from(requests_per_second.max(1));
        let rate = Rate { per_second, burst: f64::from(request_burst.max(1)) };
        Self {
            sources: PerSource::new(rate, MAX_SOURCES),
            trunk_rates: PerSource::new(rate, MAX_TRUNKS),
            settings,
            registrar,
            counts,
            now,
            servers: HashMap::new(),
            server_ids: HashMap::new(),
            server_keys: HashMap::new(),
            finished: VecDeque::new(),
            clients: HashMap::new(),
            client_ids: HashMap::new(),
            legs: HashMap::new(),
            dialogs: HashMap::new(),
            merging: HashMap::new(),
            trunks: HashMap::new(),
            connections: HashMap::new(),
            binds: HashMap::new(),
            held: HashMap::new(),
            timers: BinaryHeap::new(),
            effects: VecDeque::new(),
            leg_ids,
            next_id: 0,
        }
    }

    /// The next thing to do; drain to `None` after each call.
    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A TCP connection is up.
    pub(super) fn connection_opened(&mut self, connection: u64, flow: Flow) {
        self.connections.insert(connection, flow);
    }

    /// A TCP connection is gone. Legs on it live on: the phone may come back on another.
    pub(super) fn connection_closed(&mut self, connection: u64, now: Instant) {
        self.now = now;
        self.connections.remove(&connection);
        self.registrar.flow_closed(connection);
        self.registrar_changes();
    }

    /// Open connections from one address.
    pub(super) fn connections_from(&self, ip: IpAddr) -> usize {
        self.connections.values().filter(|flow| flow.remote_ip() == Some(ip)).count()
    }

    pub(super) fn leg_count(&self) -> usize {
        self.legs.len()
    }

    pub(super) fn transaction_count(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    fn event(&mut self, event: SipEvent) {
        self.effects.push_back(Effect::Event(event));
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn new_leg_id(&self) -> LegId {
        LegId(self.leg_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// 96 bits that nobody outside can guess.
    fn secret(&mut self, domain: &str) -> String {
        let id = self.fresh_id();
        let mut hash = Sha256::new();
        hash.update(self.settings.key);
        hash.update(domain.as_bytes());
        hash.update(id.to_be_bytes());
        data_encoding::HEXLOWER.encode(&hash.finalize()[..12])
    }
}
