//! One publication: put at the nearest known servers of all four replica keys at once, and at nearer ones as they are
//! found; then read back, because a put that kad acknowledged proves nothing (PITFALLS 1). Sans-IO: answers come in,
//! [`Ask`]s go out.

use super::ask::Ask;
use super::behaviour::REPLICATION;
use super::{PublishError, PublishReport};
use crate::record::{RecordKey, ValidBundle};
use libp2p::PeerId;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Copies that make a publication good, if there are as many other nodes (FORMATS "Decisions for the first day").
pub(super) const WANTED: usize = 3;

/// A reading begins when enough peers acknowledged, when a put ended, or after this time: one dead peer makes a put last
/// for seconds.
const FIRST_READ: Duration = Duration::from_millis(300);

/// One reading at a time is enough while they are fast; behind one that is slower than this another begins.
const SLOW_READ: Duration = Duration::from_millis(300);

/// Pause before reading again, doubled each time.
const READ_AGAIN: Duration = Duration::from_millis(150);

/// Readings of each key at most.
const MAX_READS: u8 = 5;

/// The whole publication: what kad's slowest query may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// How long a node that knows nobody yet waits for its first peer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Replica {
    /// Peers that were sent the record.
    sent: HashSet<PeerId>,
    /// Queries of each kind that run.
    puts: usize,
    searching: bool,
    reading: Option<Instant>,
    reads: u8,
    read_at: Option<Instant>,
}

pub(super) struct Publication {
    pub(super) bundle: ValidBundle,
    pub(super) bytes: Vec<u8>,
    pub(super) keys: [RecordKey; 4],
    started: Instant,
    begun: bool,
    replicas: [Replica; 4],
    holders: HashSet<PeerId>,
    reply: Option<oneshot::Sender<Result<PublishReport, PublishError>>>,
}

/// What a publication needs to know of the overlay now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// Servers known.
    pub(super) servers: usize,
    /// This node keeps the record itself, and somebody is connected to ask it.
    pub(super) served_here: bool,
}

impl Publication {
    pub(super) fn new(
        bundle: ValidBundle,
        keys: [RecordKey; 4],
        reply: oneshot::Sender<Result<PublishReport, PublishError>>,
        now: Instant,
    ) -> Self {
        Self {
            bytes: bundle.encode(),
            bundle,
            keys,
            started: now,
            begun: false,
            replicas: Default::default(),
            holders: HashSet::new(),
            reply: Some(reply),
        }
    }

    /// Begins as soon as there is anybody to store at. `nearest` are known servers, nearest first, for each key.
    pub(super) fn begin(
        &mut self,
        nearest: impl Fn(&RecordKey) -> Vec<PeerId>,
        around: Around,
        now: Instant,
    ) -> Vec<Ask> {
        if self.begun {
            return Vec::new();
        }
        if around.servers == 0 {
            if around.served_here {
                // Two nodes, and this is the one that keeps records: done.
                self.begun = true;
                self.answer(Ok(()), now);
            } else if now >= self.started + PATIENCE {
                self.begun = true;
                self.answer(Err(PublishError::Alone), now);
            }
            return Vec::new();
        }
        self.begun = true;
        let mut asks = Vec::new();
        for index in 0..self.keys.len() {
            let peers = nearest(&self.keys[index]);
            asks.extend(self.send(index, peers));
            self.replicas[index].read_at = Some(now + FIRST_READ);
        }
        // A table with room left knows everybody who would be found.
        if around.servers >= REPLICATION {
            asks.push(self.search(0));
        }
        asks
    }

    /// Searches run one after the other: they only improve on what was sent already.
    fn search(&mut self, index: usize) -> Ask {
        self.replicas[index].searching = true;
        Ask::Closest(index)
    }

    fn send(&mut self, index: usize, peers: Vec<PeerId>) -> Option<Ask> {
        let replica = &mut self.replicas[index];
        let peers: Vec<PeerId> = peers.into_iter().filter(|peer| replica.sent.insert(*peer)).collect();
        if peers.is_empty() {
            return None;
        }
        replica.puts += 1;
        Some(Ask::Put { index, peers })
    }

    /// The search for the nearest servers of a key ended.
    pub(super) fn searched(&mut self, index: usize, peers: Vec<PeerId>) -> Vec<Ask> {
        self.replicas[index].searching = false;
        let next = (index + 1 < self.replicas.len()).then(|| self.search(index + 1));
        self.send(index, peers).into_iter().chain(next).collect()
    }

    /// So many peers acknowledged a put that still runs. That is not believed either, but worth asking now.
    pub(super) fn acknowledged(&mut self, index: usize, peers: usize, now: Instant) {
        let replica = &mut self.replicas[index];
        if peers >= WANTED && replica.reads == 0 && replica.read_at.is_some_and(|at| at > now) {
            replica.read_at = Some(now);
        }
    }

    /// A put came to its end; how is not believed.
    pub(super) fn put(&mut self, index: usize, now: Instant) {
        let replica = &mut self.replicas[index];
        replica.puts = replica.puts.saturating_sub(1);
        if replica.reads == 0 {
            replica.read_at = Some(now);
        }
    }

    /// A peer answered a reading with a valid bundle.
    pub(super) fn read(&mut self, peer: PeerId, theirs: &ValidBundle, around: Around, now: Instant) -> Vec<Ask> {
        let fresh_enough = *theirs == self.bundle || theirs.merge(&self.bundle) == *theirs;
        if fresh_enough
            && self.holders.insert(peer)
            && self.holders.len() >= self.wanted(around)
            && self.reply.is_some()
        {
            self.answer(Ok(()), now);
            return vec![Ask::StopReading];
        }
        Vec::new()
    }

    /// A reading ended. `without` are peers that answered that they have nothing.
    pub(super) fn read_ended(&mut self, index: usize, without: Vec<PeerId>, now: Instant) -> Vec<Ask> {
        let replica = &mut self.replicas[index];
        replica.reading = None;
        if self.reply.is_none() || replica.reads >= MAX_READS {
            return Vec::new();
        }
        replica.read_at = Some(now + READ_AGAIN * (1 << replica.reads.min(6)));
        if replica.reads < 2 {
            return Vec::new();
        }
        // Asked twice, and still not there: send it again.
        for peer in &without {
            replica.sent.remove(peer);
        }
        self.send(index, without).into_iter().collect()
    }

    /// Time passes.
    pub(super) fn tick(&mut self, around: Around, now: Instant) -> Vec<Ask> {
        if self.reply.is_none() || !self.begun {
            return Vec::new();
        }
        let mut asks = Vec::new();
        let fast = |r: &Replica| r.reading.is_some_and(|since| now < since + SLOW_READ);
        if !self.replicas.iter().any(fast) {
            let due = |r: &Replica| r.read_at.is_some_and(|at| at <= now) && r.reading.is_none() && r.reads < MAX_READS;
            let next = (0..self.replicas.len()).filter(|index| due(&self.replicas[*index]));
            if let Some(index) = next.min_by_key(|index| self.replicas[*index].reads) {
                let replica = &mut self.replicas[index];
                (replica.read_at, replica.reading) = (None, Some(now));
                replica.reads += 1;
                asks.push(Ask::Get(index));
            }
        }
        let idle = |r: &Replica| {
            r.reading.is_none() && !r.searching && r.puts == 0 && (r.reads >= MAX_READS || r.read_at.is_none())
        };
        if now >= self.started + DEADLINE || self.replicas.iter().all(idle) {
            let (copies, wanted) = (self.holders.len(), self.wanted(around));
            let result = if copies >= wanted { Ok(()) } else { Err(PublishError::TooFew { copies, wanted }) };
            self.answer(result, now);
            asks.push(Ask::StopReading);
        }
        asks
    }

    /// At least one peer where there is any; what was seen holding it counts as existing.
    fn wanted(&self, around: Around) -> usize {
        WANTED.min(around.servers.max(self.holders.len())).max(1)
    }

    fn answer(&mut self, result: Result<(), PublishError>, now: Instant) {
        let took = now.saturating_duration_since(self.started).as_millis();
        let report = PublishReport { copies: self.holders.len(), took_ms: u64::try_from(took).unwrap_or(u64::MAX) };
        if let Some(reply) = self.reply.take() {
            // Who dropped the future does not want to know.
            let _ = reply.send(result.map(|()| report));
        }
    }

    pub(super) fn succeeded(&self, around: Around) -> bool {
        self.reply.is_none() && self.holders.len() >= self.wanted(around)
    }

    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Nothing runs for it any more and the answer is given.
    pub(super) fn is_over(&self) -> bool {
        self.reply.is_none() && self.replicas.iter().all(|r| r.reading.is_none() && !r.searching && r.puts == 0)
    }
}

#[cfg(test)]
mod tests;
