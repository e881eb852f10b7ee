//! Publications and lookups in the actor: what they ask is made into kad queries, and what kad finds goes back to them.

use super::actor::{Actor, Operation};
use super::ask::{Ask, Purpose};
use super::behaviour::REPLICATION;
use super::lookup::Lookup;
use super::publish::{Around, Publication};
use super::*;
use crate::clock::UnixMillis;
use crate::ledger::Fact;
use crate::record::{self, Judge, RecordKey};
use libp2p::PeerId;
use libp2p::kad::{self, QueryId, QueryResult, Quorum};
use std::time::Instant;

/// Publications and lookups that run at once; more wait in line, and who comes when the line is full is turned away.
const MAX_RUNNING: usize = 64;
const MAX_WAITING: usize = 4096;

/// Operations are looked at for what time brings this often at most, however many events the swarm has.
const PAUSE: Duration = Duration::from_millis(10);

impl Actor {
    pub(super) fn publish(
        &mut self,
        bundle: ValidBundle,
        reply: oneshot::Sender<Result<PublishReport, PublishError>>,
        now: Instant,
    ) {
        let keys = record::replica_keys(&self.overlay, &bundle.id());
        let judge = self.judge();
        if let Err(reason) = record::validate(&bundle.encode(), &keys[0], &judge, None) {
            let _ = reply.send(Err(PublishError::Invalid(reason)));
            return;
        }
        for key in &keys {
            let nearer = self.servers.nearer_than_here(&key.0);
            if nearer < REPLICATION {
                // Full is no failure: it is one copy less.
                let _ = self.swarm.behaviour_mut().kad.store_mut().keep(*key, bundle.clone(), judge.now);
            }
        }
        self.enqueue(Operation::Publish(Box::new(Publication::new(bundle, keys, reply, now))));
    }

    pub(super) fn lookup(&mut self, who: IdHash, events: mpsc::Sender<LookupEvent>, now: Instant) {
        let keys = record::replica_keys(&self.overlay, &who);
        self.enqueue(Operation::Lookup(who, Box::new(Lookup::new(keys, events, now))));
    }

    fn enqueue(&mut self, operation: Operation) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(operation);
            self.operations_at = Instant::now();
        } else {
            // Its channel closes with it: `Stopped` for the one, the end of events for the other.
            self.meter.refuse("own: too many operations".into());
        }
    }

    /// Everything that is due now, for all operations.
    pub(super) fn operations(&mut self, now: Instant) {
        while self.running.len() < MAX_RUNNING {
            let Some(operation) = self.waiting.pop_front() else { break };
            self.running.insert(self.next_operation, operation);
            self.next_operation += 1;
        }
        if self.running.is_empty() || now < self.operations_at {
            return;
        }
        self.operations_at = now + PAUSE;
        let around = self.around();
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            let Some(mut operation) = self.running.remove(&id) else { continue };
            let asks = match &mut operation {
                Operation::Publish(publication) => {
                    let nearest = |key: &RecordKey| self.servers.nearest(key, REPLICATION);
                    let mut asks = publication.begin(nearest, around, now);
                    for (purpose, answers) in self.answers(id) {
                        if let Purpose::Put(index) = purpose {
                            publication.acknowledged(index, answers as usize, now);
                        }
                    }
                    asks.extend(publication.tick(around, now));
                    asks
                }
                Operation::Lookup(_, lookup) => {
                    let local = match lookup.has_begun() {
                        true => None,
                        false => lookup.keys.iter().find_map(|key| self.held_now(key)),
                    };
                    let mut asks = lookup.begin(around.servers, local, now);
                    let readings = self.answers(id).filter(|(purpose, _)| matches!(purpose, Purpose::Get(_)));
                    if lookup.should_stop(readings.map(|(_, answers)| answers).min().unwrap_or(0), now) {
                        asks.push(Ask::StopReading);
                    }
                    asks
                }
            };
            self.perform(id, &operation, asks);
            if !self.finish_if_over(&mut operation, around, now) {
                self.running.insert(id, operation);
            }
        }
    }

    /// Makes asks into queries.
    fn perform(&mut self, id: u64, operation: &Operation, asks: Vec<Ask>) {
        for ask in asks {
            let (keys, bytes) = match operation {
                Operation::Publish(publication) => (&publication.keys, Some((&publication.bytes, &publication.bundle))),
                Operation::Lookup(_, lookup) => (&lookup.keys, None),
            };
            match ask {
                Ask::Closest(index) => {
                    let query = self.swarm.behaviour_mut().kad.get_closest_peers(keys[index].0.to_vec());
                    self.queries.insert(query, (id, Purpose::Closest(index)));
                }
                Ask::Get(index) => {
                    let query = self.swarm.behaviour_mut().kad.get_record(kad::RecordKey::new(&keys[index].0));
                    self.queries.insert(query, (id, Purpose::Get(index)));
                }
                Ask::Put { index, peers } => {
                    if let Some((bytes, bundle)) = bytes {
                        let query = self.put(keys[index], bytes.clone(), bundle.expires_at(), peers);
                        self.queries.insert(query, (id, Purpose::Put(index)));
                    }
                }
                Ask::StopReading => {
                    let of_this = |(query, (owner, purpose)): (&QueryId, &(u64, Purpose))| {
                        (*owner == id && matches!(purpose, Purpose::Get(_))).then_some(*query)
                    };
                    let queries: Vec<QueryId> = self.queries.iter().filter_map(of_this).collect();
                    for query in queries {
                        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&query) {
                            query.finish();
                        }
                    }
                }
            }
        }
    }

    fn put(&mut self, key: RecordKey, value: Vec<u8>, expires: UnixMillis, peers: Vec<PeerId>) -> QueryId {
        let left = Duration::from_millis(expires.0.saturating_sub(UnixMillis::now().0));
        let record = kad::Record {
            key: kad::RecordKey::new(&key.0),
            value,
            publisher: None,
            expires: Instant::now().checked_add(left),
        };
        self.swarm.behaviour_mut().kad.put_record_to(record, peers.into_iter(), Quorum::All)
    }

    /// A query of kad went on or ended.
    pub(super) fn progressed(&mut self, query: QueryId, result: QueryResult, last: bool) {
        let now = Instant::now();
        let purpose = if last { self.queries.remove(&query) } else { self.queries.get(&query).copied() };
        // Self-lookups and repairs belong to nobody.
        let Some((id, purpose)) = purpose else { return };
        let Some(mut operation) = self.running.remove(&id) else { return };
        let around = self.around();
        let asks = match (&mut operation, purpose, result) {
            (Operation::Publish(publication), Purpose::Closest(index), QueryResult::GetClosestPeers(found)) => {
                let found = match found {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                publication.searched(index, found.into_iter().map(|peer| peer.peer_id).collect())
            }
            (Operation::Publish(publication), Purpose::Put(index), QueryResult::PutRecord(_)) => {
                publication.put(index, now);
                Vec::new()
            }
            (operation, Purpose::Get(index), QueryResult::GetRecord(answer)) => {
                self.read(operation, index, answer, last, around, now)
            }
            // Other pairs do not occur: a query ends as what it began.
            _ => Vec::new(),
        };
        self.perform(id, &operation, asks);
        if !self.finish_if_over(&mut operation, around, now) {
            self.running.insert(id, operation);
        }
    }

    fn read(
        &mut self,
        operation: &mut Operation,
        index: usize,
        answer: kad::GetRecordResult,
        last: bool,
        around: Around,
        now: Instant,
    ) -> Vec<Ask> {
        match answer {
            Ok(kad::GetRecordOk::FoundRecord(found)) => {
                let asks = self.answered(operation, index, found, around, now);
                debug_assert!(!last);
                asks
            }
            Ok(kad::GetRecordOk::FinishedWithNoAdditionalRecord { cache_candidates }) => {
                read_ended(operation, index, cache_candidates.into_values().collect(), now)
            }
            Err(kad::GetRecordError::NotFound { closest_peers, .. }) => {
                read_ended(operation, index, closest_peers, now)
            }
            Err(kad::GetRecordError::Timeout { .. }) => read_ended(operation, index, Vec::new(), now),
        }
    }

    /// One peer gave bytes: judged by themselves, and the peer with them.
    fn answered(
        &mut self,
        operation: &mut Operation,
        index: usize,
        found: kad::PeerRecord,
        around: Around,
        now: Instant,
    ) -> Vec<Ask> {
        let bytes = &found.record.value;
        let judge = self.judge();
        match operation {
            Operation::Publish(publication) => {
                let Some(peer) = found.peer else { return Vec::new() };
                let theirs = if *bytes == publication.bytes {
                    Ok(publication.bundle.clone())
                } else {
                    self.verdict(bytes, &publication.keys[index], &judge, Some(peer), now)
                };
                match theirs {
                    Ok(theirs) => publication.read(peer, &theirs, around, now),
                    Err(_) => Vec::new(),
                }
            }
            Operation::Lookup(who, lookup) => {
                let verdict = lookup
                    .judged(bytes)
                    .unwrap_or_else(|| self.verdict(bytes, &lookup.keys[index], &judge, found.peer, now));
                if let Ok(bundle) = &verdict {
                    self.swarm.behaviour_mut().link.set_pin(*who, bundle.pin());
                }
                lookup.answered(index, found.peer, bytes, verdict, now);
                Vec::new()
            }
        }
    }

    /// Judges an answer and notes the peer that gave it.
    fn verdict(
        &mut self,
        bytes: &[u8],
        key: &RecordKey,
        judge: &Judge,
        peer: Option<PeerId>,
        now: Instant,
    ) -> Result<ValidBundle, RejectReason> {
        let verdict = record::validate(bytes, key, judge, None);
        if let Some(peer) = peer {
            match &verdict {
                Ok(_) => self.ledger.note(peer, Fact::Useful, now),
                Err(reason) => self.note_refusal(peer, "answer", *reason, now),
            }
        }
        verdict
    }

    fn finish_if_over(&mut self, operation: &mut Operation, around: Around, now: Instant) -> bool {
        match operation {
            Operation::Publish(publication) => {
                if !publication.is_over() {
                    return false;
                }
                if publication.succeeded(around) {
                    self.meter.publish_seconds.observe(publication.elapsed(now).as_secs_f64());
                }
                true
            }
            Operation::Lookup(who, lookup) => {
                if !lookup.is_over() {
                    return false;
                }
                if let Some(after) = lookup.first_valid_after() {
                    self.meter.lookup_seconds.observe(after.as_secs_f64());
                }
                if let Some((bundle, repairs)) = lookup.finish(*who, now) {
                    let bytes = bundle.encode();
                    for repair in repairs {
                        if let Ask::Put { index, peers } = repair {
                            self.put(lookup.keys[index], bytes.clone(), bundle.expires_at(), peers);
                        }
                    }
                }
                true
            }
        }
    }

    /// The queries of an operation that still run: what each is for, and how many servers have answered it.
    fn answers(&self, id: u64) -> impl Iterator<Item = (Purpose, u32)> {
        let kad = &self.swarm.behaviour().kad;
        let of_this = self.queries.iter().filter(move |(_, (owner, _))| *owner == id);
        of_this.filter_map(|(query, (_, purpose))| Some((*purpose, kad.query(query)?.stats().num_successes())))
    }

    fn held_now(&mut self, key: &RecordKey) -> Option<ValidBundle> {
        let now = UnixMillis::now();
        let held = self.swarm.behaviour_mut().kad.store_mut().held(key)?;
        (held.expires_at() > now).then(|| held.clone())
    }

    pub(super) fn around(&mut self) -> Around {
        let server = self.upkeep.server;
        let servers = self.servers.len();
        Around { servers, served_here: server && self.peers.connected_count() > 0 }
    }
}

fn read_ended(operation: &mut Operation, index: usize, without: Vec<PeerId>, now: Instant) -> Vec<Ask> {
    match operation {
        Operation::Publish(publication) => publication.read_ended(index, without, now),
        Operation::Lookup(_, lookup) => {
            lookup.read_ended(index, without);
            Vec::new()
        }
    }
}
