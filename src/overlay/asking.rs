//! Questions of our own on `store/1`: to whom, over which connection, and what comes back. A card is verified before it
//! is dialled, dialled only where it says, by one dial however many wait for it; a reply is checked before anybody
//! counts it.

mod dials;

use self::dials::Dial;
use super::actor::Actor;
use super::address::{node_of, peer_named, to_multiaddr};
use super::exchange::WINDOW;
use super::operations::Operation;
use super::transport::is_not_spoken;
use crate::clock::UnixMillis;
use crate::dht::{Answer, Ask, Card, Failure, MAX_PEERS, Question, Reply, RequestId, Said, Signed, StepId, Stored};
use crate::identity::{NodeKey, random};
use crate::ledger::Fact;
use crate::record::RecordKey;
use bytes::Bytes;
use libp2p::request_response::{OutboundFailure, OutboundRequestId};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Of answers other than receipts, one in so many has its signature verified: the channel has authenticated the peer
/// already, the signature is for others. 32 us each would be half of what a lookup costs.
const SAMPLED: u8 = 16;

/// Nodes on the same network that a lookup asks beside its search.
const MAX_NEIGHBOURS: usize = 16;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Request(u64, RequestId),
    Step(u64, StepId),
    /// Only to know the peer.
    Acquaintance,
    /// A lookup, of a node on the same network, which may have no card.
    Neighbour(u64),
}

#[derive(Clone)]
pub(super) struct Pending {
    pub(super) asker: Asker,
    to: NodeKey,
    /// `None`: not known yet.
    pub(super) card: Option<Arc<Card>>,
    pub(super) question: Question,
    /// A stamp was made for this one: no second one is.
    pub(super) paid: bool,
    /// Sent on a connection that was there before: it may have been dead.
    anew: bool,
    /// Its peer was dialled to see whether it is where its card says.
    proven: bool,
}

/// Questions to one peer.
#[derive(Default)]
struct Window {
    sent: usize,
    /// Bounded by what operations ask: one peer a few times each.
    waiting: VecDeque<Pending>,
}

#[derive(Default)]
pub(super) struct Asking {
    sent: HashMap<OutboundRequestId, Pending>,
    dials: HashMap<PeerId, Dial>,
    line: VecDeque<(PeerId, Vec<Pending>)>,
    windows: HashMap<PeerId, Window>,
    /// Connections that were dialled for questions, and when they were last used.
    opened: HashMap<ConnectionId, (PeerId, Instant)>,
}

/// What came of a question, for the operation that asked it.
pub(super) type Outcome = (Asker, Result<Answer, Failure>);

impl Actor {
    /// Asks the node of a card. The answer comes by [`Actor::answered`].
    ///
    /// # Errors
    /// At once, when the card is forged or there are too many questions.
    pub(super) fn ask(&mut self, asker: Asker, to: &Arc<Card>, ask: Ask, now: Instant) -> Result<(), Failure> {
        if !self.cards.holds(to) {
            self.meter.refuse("card: forged".into());
            return Err(Failure::Forged);
        }
        let peer = peer_named(&to.node).filter(|peer| *peer != self.here).ok_or(Failure::Unreachable)?;
        let question = self.question(ask);
        let pending =
            Pending { asker, to: to.node, card: Some(to.clone()), question, paid: false, anew: false, proven: false };
        self.meter.questions.inc();
        if self.swarm.is_connected(&peer) {
            self.send(&peer, pending);
            return Ok(());
        }
        self.dial_for(peer, pending, now)
    }

    /// Asks a connected peer of whom there is no card yet, to get it.
    pub(super) fn ask_for_card(&mut self, peer: PeerId) {
        let Some(node) = node_of(&peer) else { return };
        let asked = |pending: &Pending| pending.to == node && pending.asker == Asker::Acquaintance;
        if !self.asking.sent.values().any(asked) {
            self.ask_by_name(peer, node, Asker::Acquaintance, Ask::Find(self.position));
        }
    }

    /// Asks the nodes on the same network what they hold under a key: without the Internet they have no address that an
    /// overlay of global ones counts, so no card, and no search would come to them.
    pub(super) fn ask_neighbours(&mut self, operation: u64, key: RecordKey, now: Instant) {
        let near = self.joining.engine.neighbours().take(MAX_NEIGHBOURS);
        let near: Vec<(NodeKey, Vec<Multiaddr>)> =
            near.map(|(node, addresses)| (node, addresses.iter().map(to_multiaddr).collect())).collect();
        for (node, addresses) in near {
            let Some(peer) = peer_named(&node).filter(|peer| *peer != self.here) else { continue };
            if !self.swarm.is_connected(&peer) {
                self.dial_neighbour(peer, addresses, now);
            }
            if self.swarm.is_connected(&peer) || self.asking.dials.contains_key(&peer) {
                self.ask_by_name(peer, node, Asker::Neighbour(operation), Ask::Fetch(key));
            }
        }
    }

    fn ask_by_name(&mut self, peer: PeerId, to: NodeKey, asker: Asker, ask: Ask) {
        let question = self.question(ask);
        self.send(&peer, Pending { asker, to, card: None, question, paid: false, anew: true, proven: false });
    }

    fn question(&mut self, ask: Ask) -> Question {
        let card = self.own_card(UnixMillis::now());
        let stamp = self.paying.stamp_for(&ask);
        Question { nonce: random(), card, ask, stamp }
    }

    /// To a connected peer, now or when it has answered others.
    pub(super) fn send(&mut self, peer: &PeerId, pending: Pending) {
        if !self.swarm.is_connected(peer) {
            // It has left meanwhile.
            let asker = pending.asker;
            if let Err(why) = self.dial_for(*peer, pending, Instant::now()) {
                self.outcomes.push_back((asker, Err(why)));
            }
            return;
        }
        let under_way = self.asking.windows.entry(*peer).or_default();
        if under_way.sent >= WINDOW {
            under_way.waiting.push_back(pending);
            return;
        }
        under_way.sent += 1;
        let bytes = pending.question.encode();
        let id = self.swarm.behaviour_mut().store.send_request(peer, bytes.into());
        self.asking.sent.insert(id, pending);
    }

    /// A question is no longer under way: the next one's turn.
    fn taken(&mut self, peer: &PeerId, id: OutboundRequestId) -> Option<Pending> {
        let pending = self.asking.sent.remove(&id)?;
        if !self.swarm.is_connected(peer) {
            // All of them go on another connection, or nobody would call them up.
            let waiting = self.asking.windows.remove(peer).map(|window| window.waiting).unwrap_or_default();
            for next in waiting {
                if wanted(&self.running, &next) {
                    self.send(peer, next);
                }
            }
        } else if let Some(window) = self.asking.windows.get_mut(peer) {
            window.sent = window.sent.saturating_sub(1);
            let mut next = None;
            while next.is_none() && !window.waiting.is_empty() {
                next = window.waiting.pop_front().filter(|next| wanted(&self.running, next));
            }
            match next {
                Some(next) => self.send(peer, next),
                None if window.sent == 0 => drop(self.asking.windows.remove(peer)),
                None => {}
            }
        }
        Some(pending)
    }

    /// A question came to nothing.
    pub(super) fn unanswered(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        id: OutboundRequestId,
        error: &OutboundFailure,
    ) {
        let Some(mut pending) = self.taken(&peer, id) else { return };
        let broken = match error {
            OutboundFailure::Io(error) => !is_not_spoken(error),
            error => matches!(error, OutboundFailure::ConnectionClosed),
        };
        if broken && !pending.anew && pending.card.is_some() {
            // The connection was there before and was dead: once more, on a new one.
            pending.anew = true;
            self.send(&peer, pending);
            return;
        }
        let why = match error {
            OutboundFailure::Io(error) if is_not_spoken(error) => {
                self.evict(&peer);
                Failure::Malformed
            }
            OutboundFailure::Io(_) | OutboundFailure::UnsupportedProtocols => Failure::Malformed,
            OutboundFailure::Timeout => {
                // Silent, or the connection is dead without knowing: the next question goes over another one.
                if !self.swarm.behaviour().link.uses(connection) {
                    self.swarm.close_connection(connection);
                }
                self.not_reached(&pending.to);
                Failure::Unreachable
            }
            OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => Failure::Unreachable,
        };
        self.outcomes.push_back((pending.asker, Err(why)));
    }

    /// A reply came.
    pub(super) fn answered(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        id: OutboundRequestId,
        bytes: Bytes,
        now: Instant,
    ) {
        let Some(pending) = self.taken(&peer, id) else { return };
        if let Some((_, used)) = self.asking.opened.get_mut(&connection) {
            *used = now;
        }
        let card = pending.card.as_ref();
        if card.is_some_and(|card| !self.is_where_it_says(&peer, connection, card)) {
            return self.prove(peer, pending, now);
        }
        let outcome = self.judged(peer, &pending, bytes, now);
        let pending = match outcome {
            Ok(Answer::Stored(Stored::Stamp { bits })) => match self.pay(peer, pending, bits) {
                Some(unpaid) => unpaid,
                None => return,
            },
            _ => pending,
        };
        self.outcomes.push_back((pending.asker, outcome));
    }

    fn judged(&mut self, peer: PeerId, pending: &Pending, bytes: Bytes, now: Instant) -> Result<Answer, Failure> {
        let wall = UnixMillis::now();
        let reply = match Reply::decode(bytes, &pending.question) {
            Ok(reply) => reply,
            Err(error) => {
                self.meter.refuse(format!("reply: {error}"));
                self.ledger.note(peer, Fact::Refused, now);
                return Err(Failure::Malformed);
            }
        };
        let receipt = matches!(reply.said, Said::Stored { result: Stored::Kept { .. }, .. });
        // By lots that the peer cannot know.
        let [lot] = random();
        let sampled = u8::is_multiple_of(lot, SAMPLED);
        if (receipt || sampled) && reply.verify(&pending.to, &self.overlay).is_err() {
            self.meter.refuse(format!("reply: forged {}", if receipt { "receipt" } else { "answer" }));
            self.ledger.note(peer, Fact::Forged, now);
            return Err(Failure::Malformed);
        }
        if reply.said == Said::Busy {
            return Err(Failure::Busy);
        }
        self.clocks.heard(pending.to, reply.time, wall);
        if receipt
            && matches!(pending.asker, Asker::Request(..))
            && let Some(card) = &pending.card
        {
            self.promised(&pending.question, card, &reply);
        }
        if let (Said::Held(None), Ask::Fetch(key)) = (&reply.said, &pending.question.ask) {
            self.denied(pending.to, *key, Signed::from(&reply));
        }
        let shown = reply.card.as_ref().and_then(|card| self.cards.read(card, wall));
        let shown = shown.filter(|card| card.node == pending.to && self.cards.holds(card));
        if let Some(card) = shown.or_else(|| pending.card.clone()) {
            let chosen = pending.asker != Asker::Acquaintance || !self.peers.is_visitor(&peer);
            self.acquainted(peer, card, chosen, now, wall);
        }
        let mut peers = Vec::with_capacity(reply.peers.len().min(MAX_PEERS));
        for signed in &reply.peers {
            match self.cards.read(signed, wall) {
                Some(card) if card.node == self.node => {}
                Some(card) => peers.push(card),
                None => self.meter.refuse("reply: a card that is none".into()),
            }
        }
        Ok(match reply.said {
            Said::Held(bundle) => Answer::Found { peers, bundle },
            Said::Stored { result, .. } => Answer::Stored(result),
            Said::Near | Said::Busy => Answer::Found { peers, bundle: None },
            Said::List(entries) => Answer::List(entries),
            Said::Enlisted(enlisted) => Answer::Enlisted(enlisted),
        })
    }
}

impl Actor {
    /// Something happened on `store/1`.
    pub(super) fn store_event(&mut self, event: super::exchange::Event, now: Instant) {
        use libp2p::request_response::{Event, Message};
        match event {
            Event::Message { peer, connection_id, message: Message::Request { request, channel, .. } } => {
                self.asked(peer, connection_id, request.bytes, channel);
            }
            Event::Message { peer, connection_id, message: Message::Response { request_id, response } } => {
                self.answered(peer, connection_id, request_id, response.bytes, now);
            }
            Event::OutboundFailure { peer, connection_id, request_id, error } => {
                self.unanswered(peer, connection_id, request_id, &error);
            }
            // Who asked has left, or we dropped the question ourselves.
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }
}

/// What an operation that is over wanted to know, nobody wants to know.
fn wanted(running: &BTreeMap<u64, Operation>, pending: &Pending) -> bool {
    match pending.asker {
        Asker::Request(id, _) | Asker::Step(id, _) | Asker::Neighbour(id) => running.contains_key(&id),
        Asker::Acquaintance => true,
    }
}
