//! A lookup: four walks at once, every answer judged, the freshest wins and is told at once, stale holders are repaired.
//!
//! No single answer ends it: anybody may hand out a record, because it proves itself, and nobody can say with authority
//! that there is none, or none fresher. So `Found` comes with the first valid bundle and again with each fresher one,
//! and `Done` when the regions were swept.

mod evidence;

#[cfg(test)]
mod tests;

use self::evidence::Evidence;
use super::walk::{EVERYBODY, Seeds, Walk, WalkConfig, is_everybody};
use super::{Answer, Ask, Card, Failure, Observations, Position, REGION, REPLICAS, Request, RequestId, StepId};
use crate::identity::NodeKey;
use crate::record::{Judge, RecordKey, RejectReason, ValidBundle};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Stores that a lookup brings up to date at most: each caller does its small part (SECURITY §3.7).
const REPAIRS: usize = 4;

/// A region where fewer members answered, in parts of the expected number, was not seen whole: at honest chance 7 % of
/// regions, which then cost some more questions.
const SPARSE: (usize, usize) = (6, 10);

/// What a lookup says.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "taken apart at once")]
pub enum Progress {
    /// A valid bundle, merged with all seen so far; again whenever it became fresher.
    Found(ValidBundle),
    Done(Outcome),
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Peers that answered.
    pub asked: usize,
    /// Requests sent.
    pub requests: usize,
    /// Who holds the newest, something older, or nothing though in the region.
    pub holders: Vec<NodeKey>,
    pub stale: Vec<NodeKey>,
    pub empty: Vec<NodeKey>,
    pub refused: BTreeMap<NodeKey, RejectReason>,
    /// Some region was more crowded than honest nodes make it.
    pub crowded: bool,
}

/// The lookup.
#[derive(Debug)]
pub struct Lookup {
    keys: [RecordKey; REPLICAS],
    walks: Vec<Walk>,
    /// Walks that run: in an overlay where everybody is in every region, one is enough unless it finds nothing.
    running: usize,
    turn: usize,
    open: BTreeMap<RequestId, Sent>,
    requests: u64,
    answers: usize,
    evidence: Evidence,
    progress: VecDeque<Progress>,
    repairs: VecDeque<(RecordKey, Arc<Card>)>,
    repair_time: Duration,
    observations: Observations,
    done: bool,
}

#[derive(Debug)]
enum Sent {
    Step { walk: usize, step: StepId, to: Arc<Card> },
    Repair { by: Instant },
}

impl Lookup {
    /// `keys` are the user's replica keys, `seeds` where to begin for each.
    pub fn new(
        keys: [RecordKey; 4],
        seeds: [Seeds; 4],
        radius_fraction: f64,
        config: WalkConfig,
        salt: u64,
        now: Instant,
    ) -> Self {
        let repair_time = config.hard;
        let walks = keys.iter().zip(seeds).enumerate().map(|(i, (key, seeds))| {
            let salt = salt.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Walk::new(Position::of_key(key), seeds, radius_fraction, config.clone(), salt, now)
        });
        Self {
            keys,
            walks: walks.collect(),
            running: if is_everybody(radius_fraction) { 1 } else { REPLICAS },
            turn: 0,
            open: BTreeMap::new(),
            requests: 0,
            answers: 0,
            evidence: Evidence::default(),
            progress: VecDeque::new(),
            repairs: VecDeque::new(),
            repair_time,
            observations: Vec::new(),
            done: false,
        }
    }

    /// What this node holds itself: one voice like any other.
    pub fn local(&mut self, bundle: ValidBundle) {
        if let Some(best) = self.evidence.local(bundle) {
            self.progress.push_back(Progress::Found(best));
        }
    }

    /// The next request to send now, if any; also repairs after `Done`. To be called until `None` after each input.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if !self.done {
            loop {
                if let Some(request) = self.poll_walks(now) {
                    return Some(request);
                }
                if !self.press_on(now) {
                    break;
                }
            }
            self.finish(now);
        }
        self.open.retain(|_, sent| !matches!(sent, Sent::Repair { by } if *by <= now));
        let (key, to) = self.repairs.pop_front()?;
        let bytes = self.evidence.best_bytes()?;
        let id = self.next_id();
        self.open.insert(id, Sent::Repair { by: now + self.repair_time });
        Some(Request { id, to, ask: Ask::Store(key, bytes) })
    }

    fn poll_walks(&mut self, now: Instant) -> Option<Request> {
        for _ in 0..self.running {
            self.turn = (self.turn + 1) % self.running;
            if let Some(step) = self.walks[self.turn].poll(now) {
                let id = self.next_id();
                self.open.insert(id, Sent::Step { walk: self.turn, step: step.id, to: step.to.clone() });
                return Some(Request { id, to: step.to, ask: Ask::Fetch(self.keys[self.turn]) });
            }
        }
        None
    }

    fn next_id(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// Regions that were not seen whole, or do not agree, are walked to again by other ways. Whether there is more to
    /// ask now.
    fn press_on(&mut self, now: Instant) -> bool {
        let mut pressed = false;
        for (index, walk) in self.walks[..self.running].iter_mut().enumerate() {
            if !walk.is_idle(now) || walk.deadline() <= now {
                continue;
            }
            let seen = walk.region().len();
            let fresh = self.evidence.fresh(index);
            let sparse = !walk.is_everybody() && seen * SPARSE.1 < REGION * SPARSE.0;
            if sparse || fresh * 2 < seen || self.evidence.best().is_none() {
                pressed |= walk.press_on();
            }
        }
        let over = |walk: &Walk| walk.is_idle(now);
        if !pressed
            && self.running < self.walks.len()
            && (self.evidence.best().is_none() || self.is_larger_than_it_seemed())
            && self.walks[..self.running].iter().all(over)
        {
            self.running = self.walks.len();
            pressed = true;
        }
        pressed
    }

    /// Everybody was asked for one key alone, and they are more than one region has, or most of them hold nothing: four
    /// regions then.
    fn is_larger_than_it_seemed(&self) -> bool {
        let seen = self.walks[0].region().len();
        seen >= EVERYBODY || self.evidence.fresh(0) * 2 < seen
    }

    fn finish(&mut self, now: Instant) {
        let found = self.evidence.best().is_some();
        let through = |walk: &Walk| walk.is_over(now) || found && walk.is_idle(now);
        if !self.walks[..self.running].iter().all(through) {
            return;
        }
        self.done = true;
        for (index, walk) in self.walks.iter_mut().enumerate() {
            self.observations.append(&mut walk.take_observations());
            self.evidence.empty_handed(index, walk.region());
        }
        self.open.clear();
        self.repairs = self.evidence.repairs(&self.keys, REPAIRS).into();
        let mut outcome = self.evidence.outcome();
        self.observations.append(&mut self.evidence.observations());
        outcome.asked = self.answers;
        outcome.requests = usize::try_from(self.requests).unwrap_or(usize::MAX);
        outcome.crowded = self.walks.iter().any(Walk::is_crowded);
        self.progress.push_back(Progress::Done(outcome));
    }

    pub fn poll_progress(&mut self) -> Option<Progress> {
        self.progress.pop_front()
    }

    pub fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant) {
        let Some(Sent::Step { walk, step, to }) = self.open.remove(&id) else { return };
        let Answer::Found { peers, bundle } = answer else {
            return self.walks[walk].failed(step, Failure::Malformed, now);
        };
        self.answers += 1;
        if let Some(bytes) = bundle
            && let Some(best) = self.evidence.heard(walk, &self.keys[walk], &to, &bytes, judge)
        {
            self.progress.push_back(Progress::Found(best));
        }
        self.walks[walk].answered(step, &peers, now);
    }

    pub fn failed(&mut self, id: RequestId, why: Failure, now: Instant) {
        if let Some(Sent::Step { walk, step, .. }) = self.open.remove(&id) {
            self.walks[walk].failed(step, why, now);
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let repairs = self.open.values().filter_map(|sent| match sent {
            Sent::Repair { by } => Some(*by),
            Sent::Step { .. } => None,
        });
        let walks = self.walks[..self.running].iter().filter_map(Walk::poll_timeout).filter(|_| !self.done);
        repairs.chain(walks).min()
    }

    /// `Done` was told and no repair is under way.
    pub fn is_over(&self) -> bool {
        self.done && self.repairs.is_empty() && self.open.is_empty()
    }

    pub fn take_observations(&mut self) -> Observations {
        let mut all = std::mem::take(&mut self.observations);
        for walk in &mut self.walks {
            all.append(&mut walk.take_observations());
        }
        all
    }
}
