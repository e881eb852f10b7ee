//! One way to a list: a walk to its region, unless all nodes are known anyway; then a question to some of its holders. Pure.

use super::{Ask, Card};
use crate::dht::{Answer, Enlisted, Failure, Observations, Position, RequestId, StepId, Walk};
use crate::overlay::asking::Asker;
use crate::record::RecordKey;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Holders at which an owner is listed, and those that are asked for a list: one honest one is enough, as entries are
/// signed and a list can only be shortened.
const LISTED_AT: usize = 8;
const READ_AT: usize = 4;

/// The walk and the questions.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it is for.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    /// To be listed, by this entry.
    Enter(Bytes),
    Read,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Came {
    /// So many of those asked list the owner, or will once they have found it.
    Entered { listed: usize, asked: usize },
    /// Signed entries, judged by nobody yet.
    Read { list: RecordKey, entries: Vec<Bytes> },
}

pub(in crate::overlay) struct Errand {
    list: RecordKey,
    target: Position,
    goal: Goal,
    /// Until its end is in the line.
    walk: Option<Walk>,
    line: VecDeque<Arc<Card>>,
    asked: usize,
    open: usize,
    listed: usize,
    entries: Vec<Bytes>,
    observed: Observations,
    until: Instant,
}

/// How to come to the holders of a list.
pub(super) enum Way {
    Walk(Box<Walk>),
    /// The overlay is so small that they are known.
    Known(Vec<Arc<Card>>),
}

impl Errand {
    pub(super) fn new(list: RecordKey, goal: Goal, way: Way, now: Instant) -> Self {
        let (target, until) = (Position::of_key(&list), now + PATIENCE);
        let (line, entries) = (VecDeque::new(), Vec::new());
        let mut errand = Self {
            list,
            target,
            goal,
            walk: None,
            line,
            asked: 0,
            open: 0,
            listed: 0,
            entries,
            observed: Vec::new(),
            until,
        };
        match way {
            Way::Walk(walk) => errand.walk = Some(*walk),
            Way::Known(holders) => errand.queue(holders),
        }
        errand
    }

    /// Those nearest to the list are asked.
    fn queue(&mut self, mut holders: Vec<Arc<Card>>) {
        holders.sort_by_key(|card| card.position.distance(&self.target));
        holders.truncate(if self.reads() { READ_AT } else { LISTED_AT });
        self.line = holders.into();
    }

    pub(super) fn reads(&self) -> bool {
        matches!(self.goal, Goal::Read)
    }

    /// Entries that this node keeps itself.
    pub(super) fn came_home(&mut self, entries: Vec<Bytes>) {
        self.entries.extend(entries);
    }

    /// Whom to ask what.
    pub(in crate::overlay) fn poll(&mut self, id: u64, now: Instant) -> Option<(Asker, Arc<Card>, Ask)> {
        if now >= self.until {
            return None;
        }
        if let Some(walk) = &mut self.walk {
            if let Some(step) = walk.poll(now) {
                return Some((Asker::Step(id, step.id), step.to, Ask::Find(self.target)));
            }
            if !walk.is_over(now) {
                return None;
            }
            let holders = walk.region().to_vec();
            self.queue(holders);
            self.walk = None;
        }
        let to = self.line.pop_front()?;
        self.asked += 1;
        self.open += 1;
        let ask = match &self.goal {
            Goal::Enter(entry) => Ask::Enlist(self.list, entry.clone()),
            Goal::Read => Ask::List(self.list),
        };
        Some((Asker::Request(id, RequestId(self.asked as u64)), to, ask))
    }

    /// Somebody on the way answered, or did not.
    pub(in crate::overlay) fn walked(&mut self, step: StepId, outcome: Result<Answer, Failure>, now: Instant) {
        let Some(walk) = &mut self.walk else { return };
        match outcome {
            Ok(Answer::Found { peers, .. }) => walk.answered(step, &peers, now),
            Ok(_) => walk.failed(step, Failure::Malformed, now),
            Err(why) => walk.failed(step, why, now),
        }
        self.observed.extend(walk.take_observations());
    }

    /// A holder did.
    pub(in crate::overlay) fn answered(&mut self, outcome: Result<Answer, Failure>) {
        self.open = self.open.saturating_sub(1);
        match outcome {
            Ok(Answer::List(entries)) => self.entries.extend(entries),
            Ok(Answer::Enlisted(Enlisted::Listed | Enlisted::Trying)) => self.listed += 1,
            Ok(_) | Err(_) => {}
        }
    }

    pub(in crate::overlay) fn is_over(&self, now: Instant) -> bool {
        now >= self.until || self.walk.is_none() && self.open == 0 && self.line.is_empty()
    }

    pub(in crate::overlay) fn timeout(&self) -> Option<Instant> {
        let walk = self.walk.as_ref().and_then(Walk::poll_timeout);
        Some(walk.map_or(self.until, |at| at.min(self.until)))
    }

    pub(in crate::overlay) fn take_observations(&mut self) -> Observations {
        std::mem::take(&mut self.observed)
    }

    pub(super) fn came(self) -> Came {
        match self.goal {
            Goal::Enter(_) => Came::Entered { listed: self.listed, asked: self.asked },
            Goal::Read => Came::Read { list: self.list, entries: self.entries },
        }
    }
}
