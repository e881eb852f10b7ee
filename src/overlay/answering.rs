//! What peers ask on `store/1`: who is near, what is held, and "keep this". Rates first, then the answer, signed. The
//! answer for a position is made once in five seconds, however many ask (SECURITY §4.10).

use super::actor::Actor;
use super::address::node_of;
use super::exchange::{self, Pool, ReplyChannel};
use super::intake::{NotTaken, Put};
use super::rates::{Rates, Source};
use crate::admission::{Bucket, PerSource, Rate};
use crate::clock::UnixMillis;
use crate::dht::{Ask, Offered, Position, Question, Said, Stamp};
use crate::ledger::Fact;
use crate::record::{RecordKey, replica_keys};
use bytes::Bytes;
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Servers known from which on a region is not the whole overlay.
const FEW: usize = 64;

/// Signatures for all together: 16 us each, a quarter of a core at most is 15,000 a second.
const ALL: Rate = Rate { per_second: 10_000.0, burst: 5_000.0 };

/// A held key that is asked for more often is hot (SECURITY §4.10), and keys that are counted.
const HOT: Rate = Rate { per_second: 50.0, burst: 50.0 };
const MAX_HOT: usize = 256;

/// Answers for hot keys that name other servers, of one peer: four keys for each lookup. Beyond that the bundle has to do.
const NAMES: Rate = Rate { per_second: 8.0, burst: 16.0 };
const MAX_NAMED: usize = 1_024;

/// Questions of one peer that are turned away before its connection is closed: each is a stream, 0.1 ms, that no rate of
/// ours can refuse.
const PATIENCE: Rate = Rate { per_second: 100.0, burst: 1_000.0 };

/// How long the answer for a position is good, and positions for which one is kept.
const FRESH: Duration = Duration::from_secs(5);
const MAX_CACHED: usize = 256;

pub(super) struct Answering {
    rates: Rates,
    /// For replies that wait for their readers.
    room: Pool,
    cached: HashMap<Position, (Instant, Vec<Bytes>)>,
    heat: HashMap<RecordKey, Bucket>,
    names: PerSource<PeerId>,
    patience: PerSource<PeerId>,
}

impl Answering {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rates: Rates::new(ALL, now),
            room: exchange::replies(),
            cached: HashMap::new(),
            heat: HashMap::new(),
            names: PerSource::of_free_names(NAMES, MAX_NAMED),
            patience: PerSource::of_free_names(PATIENCE, MAX_NAMED),
        }
    }

    /// Whether an answer with what is held under `key` names other servers too. A lookup asks a node once for a key, and is
    /// told; who asks a thousand times for what everybody asks for takes a fifth of the bytes with the bundle alone.
    fn names_others(&mut self, peer: PeerId, key: &RecordKey, now: Instant) -> bool {
        if self.heat.len() >= MAX_HOT && !self.heat.contains_key(key) {
            self.heat.retain(|_, heat| heat.is_used(HOT, now));
            if self.heat.len() >= MAX_HOT {
                return true;
            }
        }
        let heat = self.heat.entry(*key).or_insert_with(|| Bucket::full(HOT, now));
        heat.take(HOT, now) || self.names.take(peer, now)
    }

    fn cached(&self, at: &Position, now: Instant) -> Option<Vec<Bytes>> {
        let (made, peers) = self.cached.get(at)?;
        (now.saturating_duration_since(*made) < FRESH).then(|| peers.clone())
    }

    fn cache(&mut self, at: Position, peers: Vec<Bytes>, now: Instant) {
        if self.cached.len() >= MAX_CACHED {
            self.cached.retain(|_, (made, _)| now.saturating_duration_since(*made) < FRESH);
        }
        // While that many are asked for within seconds, the others are made anew.
        if self.cached.len() < MAX_CACHED {
            self.cached.insert(at, (now, peers));
        }
    }
}

impl Actor {
    /// A peer asked something.
    pub(super) fn asked(&mut self, peer: PeerId, connection: ConnectionId, bytes: Bytes, reply: ReplyChannel) {
        let (now, wall) = (Instant::now(), UnixMillis::now());
        self.visitors.used(connection, now);
        if self.ledger.shuns(&peer, now) {
            // The channel closes with what is dropped here: the stream ends without a reply.
            self.meter.refuse("question: peer is shunned".into());
            return self.turned_away(peer, connection, now);
        }
        let question = match Question::decode(bytes) {
            Ok(question) => question,
            Err(error) => {
                self.meter.refuse(format!("question: {error}"));
                self.ledger.note(peer, Fact::Refused, now);
                return self.turned_away(peer, connection, now);
            }
        };
        let said = self.answer(peer, connection, &question, now, wall);
        if said == Said::Busy {
            self.turned_away(peer, connection, now);
        }
        // After the rates: each new card is a signature to verify.
        if let Some(card) = question.card.as_ref().filter(|_| said != Said::Busy) {
            self.shown(peer, card, wall);
        }
        let (peers, card) = match (&said, &question.ask) {
            (Said::Near, Ask::Find(position)) => (self.near(position, now, wall), self.own_card(wall)),
            (Said::Held(Some(_)), Ask::Fetch(key)) if !self.answering.names_others(peer, key, now) => {
                self.meter.hot.inc();
                (Vec::new(), None)
            }
            (Said::Held(_), Ask::Fetch(key)) => (self.near(&Position::of_key(key), now, wall), None),
            _ => (Vec::new(), None),
        };
        let bytes = self.voice.reply(&question, said, peers, card, wall);
        let parcel = self.answering.room.parcel(bytes).unwrap_or_else(|| {
            // Replies that nobody reads fill the room; this one is small.
            self.meter.refuse("question: replies wait to be read".into());
            self.voice.reply(&question, Said::Busy, Vec::new(), None, wall).into()
        });
        // Whoever left meanwhile does not want to know.
        let _ = self.swarm.behaviour_mut().store.send_response(reply, parcel);
    }

    /// A question was not worth an answer. Who goes on and on loses the connection.
    fn turned_away(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        if !self.answering.patience.take(peer, now) {
            self.hang_up(peer, connection, now);
        }
    }

    /// Closes the connection of a flood, unless somebody's call is on it.
    pub(super) fn hang_up(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        self.ledger.note(peer, Fact::Flood, now);
        if !self.swarm.behaviour().link.uses(connection) {
            self.meter.refuse("connection: closed for a flood".into());
            self.swarm.close_connection(connection);
        }
    }

    fn answer(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        question: &Question,
        now: Instant,
        wall: UnixMillis,
    ) -> Said {
        if !self.upkeep.server {
            // A neighbour may have no other way to find a user of this node.
            let near =
                node_of(&peer).is_some_and(|node| self.joining.engine.neighbours().any(|(near, _)| near == node));
            if let Ask::Fetch(key) = &question.ask
                && near
                && let Some(own) = self.own_record(key)
            {
                return Said::Held(Some(own));
            }
            self.meter.refuse("question: not a server".into());
            return Said::Busy;
        }
        if let Ask::Store(key, bundle) = &question.ask {
            let stamp = Stamp::decode(&question.stamp);
            return self.store(peer, connection, &Put { key: &key.0, bytes: bundle, stamp, what: "store" });
        }
        let from = Source::of(self.address_of(&peer, connection), self.scope);
        if let Err(why) = self.answering.rates.admits(peer, from, self.table.len() < FEW, now) {
            self.meter.refuse(format!("question: {why}"));
            return Said::Busy;
        }
        match &question.ask {
            Ask::Fetch(key) => {
                self.meter.asked.inc();
                let held = self.holding().fetch(key, wall);
                if held.is_none() {
                    // Nothing more may be promised of what is over.
                    self.holding().expire(wall);
                    self.keep_word();
                }
                Said::Held(held)
            }
            Ask::List(key) => Said::List(self.listed_under(key, wall)),
            Ask::Enlist(key, entry) => Said::Enlisted(self.enlist(peer, connection, key, entry, now, wall)),
            Ask::Find(_) | Ask::Store(..) => Said::Near,
        }
    }

    /// What a user of this node published, who is looked for under `key`.
    fn own_record(&self, key: &RecordKey) -> Option<Bytes> {
        let users = self.swarm.behaviour().link.served();
        let mut own = users.filter(|user| replica_keys(&self.overlay, &user.id).contains(key));
        own.next().map(|user| user.bundle.clone())
    }

    fn store(&mut self, peer: PeerId, connection: ConnectionId, put: &Put<'_>) -> Said {
        match self.take_in(peer, connection, put) {
            Ok(Offered { stored, sequence, .. }) => Said::Stored { result: stored, sequence },
            Err(NotTaken::Shunned | NotTaken::TooMany) => Said::Busy,
        }
    }

    fn near(&mut self, position: &Position, now: Instant, wall: UnixMillis) -> Vec<Bytes> {
        if let Some(peers) = self.answering.cached(position, now) {
            return peers;
        }
        let peers: Vec<Bytes> = self.table.answer(position, wall).iter().map(|card| card.signed.clone()).collect();
        // A small table changes with each newcomer, and is quickly looked through.
        if self.table.len() >= FEW {
            self.answering.cache(*position, peers.clone(), now);
        }
        peers
    }

    /// A peer showed its own card: a later one of a server that is known counts.
    fn shown(&mut self, peer: PeerId, signed: &Bytes, wall: UnixMillis) {
        let Some(card) = self.cards.read(signed, wall) else { return };
        let own = node_of(&peer).is_some_and(|node| node == card.node);
        let later = self.table.get(&card.node).is_some_and(|known| known.issued_at < card.issued_at);
        if own && later && self.cards.holds(&card) {
            self.table.renew(&card);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_made_once_in_five_seconds_and_few_are_kept() {
        let now = Instant::now();
        let mut answering = Answering::new(now);
        for n in 0..=u8::MAX {
            answering.cache(Position([n; 32]), vec![Bytes::from(vec![n])], now);
        }
        answering.cache(Position::default(), Vec::new(), now);
        assert_eq!(answering.cached.len(), MAX_CACHED);
        assert_eq!(answering.cached(&Position([7; 32]), now), Some(vec![Bytes::from(vec![7])]));
        assert_eq!(answering.cached(&Position([7; 32]), now + FRESH), None);
        answering.cache(Position([1; 32]), Vec::new(), now + FRESH);
        assert_eq!(answering.cached.len(), 1);
    }

    #[test]
    fn a_hot_key_is_answered_with_the_bundle_alone_but_to_a_lookup_with_names() {
        let start = Instant::now();
        let mut answering = Answering::new(start);
        let (hot, cold) = (RecordKey([1; 32]), RecordKey([2; 32]));
        let (greedy, reader) = (PeerId::random(), PeerId::random());
        let mut named = 0;
        for n in 0..10_000_u64 {
            let now = start + Duration::from_micros(n * 1_000);
            named += usize::from(answering.names_others(greedy, &hot, now));
            if n % 1_000 == 0 {
                assert!(answering.names_others(reader, &hot, now), "once a second");
                assert!(answering.names_others(greedy, &cold, now), "it is not everybody's");
            }
        }
        // 50 a second of the key, 8 of the peer, and the bursts.
        assert!((500..700).contains(&named), "{named} of 10,000");
        for n in 0..10_000_u64 {
            let key = RecordKey(std::array::from_fn(|i| n.to_be_bytes()[i % 8]));
            answering.names_others(greedy, &key, start + Duration::from_secs(20));
        }
        assert_eq!(answering.heat.len(), MAX_HOT);
        assert!(answering.names_others(greedy, &cold, start + Duration::from_secs(60)));
        assert_eq!(answering.heat.len(), 1);
    }
}
