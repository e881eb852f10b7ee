//! A publication: four walks find who is in the regions, STORE goes to each of them and to the holders of last time;
//! receipts from enough networks in enough regions make it good (SECURITY §4.4).
//!
//! The holders of last time are sent the bundle at once. A refresh in between does no more, as long as enough of them
//! answer; a walk finds who came since.

mod receipts;

#[cfg(test)]
mod tests;

use self::receipts::Receipts;
use super::walk::{EVERYBODY, Seeds, Walk, WalkConfig, is_everybody};
use super::{Answer, Ask, Card, Failure, Observations, Position, REGION, REPLICAS, Request, RequestId, StepId, Stored};
use crate::record::{Judge, RecordKey, ValidBundle, validate};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// STOREs that run at once: the bundle is up to 12 KiB.
const AT_ONCE: usize = 48;

/// Other versions of the bundle that are told at most: each of them costs a verification and maybe a publication.
const MAX_NEWER: usize = 8;

/// A region where fewer members answered, in parts of the expected number, is walked to again by other ways.
const SPARSE: (usize, usize) = (6, 10);

/// What a publication says.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "taken apart at once")]
pub enum Published {
    /// Enough receipts are here; it goes on to reach the others.
    Good { copies: usize },
    /// A holder has a newer or other bundle of this user, which is valid: merge, and publish again.
    Newer(ValidBundle),
    /// Over; `good` as above. `copies`: receipts, a node under several keys counting for each. `wanted`: the receipts
    /// without which it is not good.
    Done { good: bool, copies: usize, wanted: usize, requests: usize },
}

/// The publication.
#[derive(Debug)]
pub struct Publish {
    bundle: ValidBundle,
    bytes: Bytes,
    keys: [RecordKey; REPLICAS],
    walks: Vec<Walk>,
    /// Walks that run: none in a cheap refresh, one where everybody is in every region, else all.
    running: usize,
    full: usize,
    turn: usize,
    /// Members of each walk's region that were looked at.
    seen: [usize; REPLICAS],
    receipts: Receipts,
    /// Still to be sent: key and to whom.
    to_store: VecDeque<(usize, Arc<Card>)>,
    open: BTreeMap<RequestId, Sent>,
    requests: u64,
    newer: usize,
    progress: VecDeque<Published>,
    soft: Duration,
    hard: Duration,
    good: bool,
    done: bool,
}

#[derive(Debug)]
enum Sent {
    Step { walk: usize, step: StepId },
    Store { key: usize, to: Arc<Card>, since: Instant },
}

impl Publish {
    /// `holders`: who gave a receipt last time, by the index of the key; they are sent it at once. `walk`: false for a
    /// refresh in between, which searches only when too few of them answer (SECURITY "cheap refresh").
    #[allow(clippy::too_many_arguments, reason = "said once")]
    pub fn new(
        bundle: ValidBundle,
        keys: [RecordKey; 4],
        holders: [Vec<Arc<Card>>; 4],
        seeds: [Seeds; 4],
        radius_fraction: f64,
        walk: bool,
        config: WalkConfig,
        salt: u64,
        now: Instant,
    ) -> Self {
        // What is not placed with honest nodes nobody finds: all ways at once, and a crowd is searched twice as deep as a
        // reader does (SECURITY §4.6 "publish wide").
        let config = WalkConfig { first: config.paths, alarm_quota: 2 * config.alarm_quota, ..config };
        let (soft, hard) = (config.soft, config.hard);
        let walks = keys.iter().zip(seeds).enumerate().map(|(i, (key, seeds))| {
            let salt = salt.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Walk::new(Position::of_key(key), seeds, radius_fraction, config.clone(), salt, now)
        });
        let full = if is_everybody(radius_fraction) { 1 } else { REPLICAS };
        let mut publish = Self {
            bytes: bundle.encode().into(),
            bundle,
            keys,
            walks: walks.collect(),
            running: if walk { full } else { 0 },
            full,
            turn: 0,
            seen: [0; REPLICAS],
            receipts: Receipts::default(),
            to_store: VecDeque::new(),
            open: BTreeMap::new(),
            requests: 0,
            newer: 0,
            progress: VecDeque::new(),
            soft,
            hard,
            good: false,
            done: false,
        };
        for (key, cards) in holders.into_iter().enumerate() {
            cards.into_iter().for_each(|card| publish.plan(key, card));
        }
        publish
    }

    fn plan(&mut self, key: usize, card: Arc<Card>) {
        if self.receipts.expect(key, &card) {
            self.to_store.push_back((key, card));
        }
    }

    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if self.done {
            return None;
        }
        self.expire(now);
        loop {
            let storing = self.open.values().filter(|sent| matches!(sent, Sent::Store { .. })).count();
            if storing < AT_ONCE
                && let Some((key, to)) = self.to_store.pop_front()
            {
                let id = self.next_id();
                self.open.insert(id, Sent::Store { key, to: to.clone(), since: now });
                return Some(Request { id, to, ask: Ask::Store(self.keys[key], self.bytes.clone()) });
            }
            if let Some(request) = self.poll_walks(now) {
                return Some(request);
            }
            if !self.go_on(now) {
                break;
            }
        }
        self.finish(now);
        None
    }

    fn poll_walks(&mut self, now: Instant) -> Option<Request> {
        for _ in 0..self.running {
            self.turn = (self.turn + 1) % self.running;
            if let Some(step) = self.walks[self.turn].poll(now) {
                let id = self.next_id();
                self.open.insert(id, Sent::Step { walk: self.turn, step: step.id });
                let ask = Ask::Find(Position::of_key(&self.keys[self.turn]));
                return Some(Request { id, to: step.to, ask });
            }
        }
        None
    }

    fn next_id(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// More ways, when those tried did not show enough of the regions. Whether there is more to ask now.
    fn go_on(&mut self, now: Instant) -> bool {
        if self.running == 0 {
            let waiting = self.stores().any(|since| now.saturating_duration_since(since) < self.soft);
            // Members that were there last time and are silent now count as existing: a refresh wants most of them.
            let enough = self.receipts.is_good(true) && self.receipts.most_answered();
            if waiting || enough {
                return false;
            }
            self.running = self.full;
            return true;
        }
        let mut pressed = false;
        if self.is_larger_than_it_seemed(now) {
            (self.full, self.running) = (REPLICAS, REPLICAS);
            pressed = true;
        }
        for walk in &mut self.walks[..self.running] {
            let sparse = !walk.is_everybody() && walk.region().len() * SPARSE.1 < REGION * SPARSE.0;
            if sparse && walk.is_idle(now) && now < walk.deadline() {
                pressed |= walk.press_on();
            }
        }
        pressed
    }

    /// One walk was made for all keys, and most of those that it found do not keep them, or they are more than one region
    /// has: who knew three nodes took them for everybody.
    fn is_larger_than_it_seemed(&self, now: Instant) -> bool {
        let first = &self.walks[0];
        let (found, keep) = (first.region().len(), self.receipts.holders()[0].len());
        let waiting = self.stores().any(|since| now.saturating_duration_since(since) < self.soft);
        let over = self.full < REPLICAS && first.is_idle(now) && now < first.deadline() && !waiting;
        over && (found >= EVERYBODY || keep * 2 < found)
    }

    fn stores(&self) -> impl Iterator<Item = Instant> {
        self.open.values().filter_map(|sent| match sent {
            Sent::Store { since, .. } => Some(*since),
            Sent::Step { .. } => None,
        })
    }

    fn expire(&mut self, now: Instant) {
        let hard = self.hard;
        self.open.retain(|_, sent| match sent {
            Sent::Store { since, .. } => now.saturating_duration_since(*since) < hard,
            Sent::Step { .. } => true,
        });
    }

    fn finish(&mut self, now: Instant) {
        let walks = &self.walks[..self.running];
        if !walks.iter().all(|walk| walk.is_over(now)) || self.stores().next().is_some() || !self.to_store.is_empty() {
            return;
        }
        self.done = true;
        self.open.clear();
        self.judge_good(true);
        self.progress.push_back(Published::Done {
            good: self.good,
            copies: self.receipts.copies(),
            wanted: self.receipts.wanted(),
            requests: usize::try_from(self.requests).unwrap_or(usize::MAX),
        });
    }

    /// `final_`: nobody else is to be found, so what exists is known.
    fn judge_good(&mut self, final_: bool) {
        if !self.good && self.receipts.is_good(final_) {
            self.good = true;
            self.progress.push_back(Published::Good { copies: self.receipts.copies() });
        }
    }

    pub fn poll_progress(&mut self) -> Option<Published> {
        self.progress.pop_front()
    }

    pub fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant) {
        match (self.open.remove(&id), answer) {
            (Some(Sent::Step { walk, step }), Answer::Found { peers, .. }) => {
                self.walks[walk].answered(step, &peers, now);
                self.store_at_members(walk);
            }
            (Some(Sent::Store { key, to, .. }), Answer::Stored(stored)) => self.stored(key, to, stored, judge),
            (Some(Sent::Step { walk, step }), _) => self.walks[walk].failed(step, Failure::Malformed, now),
            (Some(Sent::Store { .. }), _) | (None, _) => {}
        }
    }

    fn store_at_members(&mut self, walk: usize) {
        let new: Vec<Arc<Card>> = self.walks[walk].region()[self.seen[walk]..].to_vec();
        self.seen[walk] += new.len();
        for card in new {
            // Where everybody is in every region, one walk finds for all four keys.
            let keys = if self.full < REPLICAS { 0..REPLICAS } else { walk..walk + 1 };
            keys.for_each(|key| self.plan(key, card.clone()));
        }
    }

    fn stored(&mut self, key: usize, to: Arc<Card>, stored: Stored, judge: &Judge) {
        match stored {
            Stored::Kept { .. } => {
                self.receipts.kept(key, to);
                self.judge_good(false);
            }
            Stored::Stale { newer } => {
                if self.newer < MAX_NEWER
                    && let Ok(newer) = validate(&newer, &self.keys[key], judge, None)
                    && self.bundle.merge(&newer) != self.bundle
                {
                    self.newer += 1;
                    // What it adds is told once.
                    self.bundle = self.bundle.merge(&newer);
                    self.progress.push_back(Published::Newer(newer));
                }
            }
            Stored::NotMine | Stored::Full | Stored::Stamp { .. } | Stored::Invalid => {}
        }
    }

    pub fn failed(&mut self, id: RequestId, why: Failure, now: Instant) {
        if let Some(Sent::Step { walk, step }) = self.open.remove(&id) {
            self.walks[walk].failed(step, why, now);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.done {
            return None;
        }
        let refresh = self.running == 0;
        let stores = self.stores().map(|since| since + if refresh { self.soft } else { self.hard });
        stores.chain(self.walks[..self.running].iter().filter_map(Walk::poll_timeout)).min()
    }

    pub fn is_over(&self) -> bool {
        self.done
    }

    /// Who gave a receipt, by the index of the key: for the next refresh.
    pub fn holders(&self) -> &[Vec<Arc<Card>>; 4] {
        self.receipts.holders()
    }

    pub fn take_observations(&mut self) -> Observations {
        self.walks.iter_mut().flat_map(Walk::take_observations).collect()
    }
}
