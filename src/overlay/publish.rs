//! One publication for somebody who waits: the engine's, with the answer that its caller gets; and who kept what last
//! time, for refreshes that need no search.

use super::{PublishError, PublishReport};
use crate::dht::{self, Card, Seeds, WalkConfig, between_searches};
use crate::record::{RecordKey, ValidBundle};
use crate::uri::IdHash;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a node that knows nobody yet waits for its first peer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Users whose holders are remembered: of a gateway.
const MAX_USERS: usize = 4_096;

pub(super) type Holders = [Vec<Arc<Card>>; 4];

pub(super) struct Publication {
    pub(super) bundle: ValidBundle,
    pub(super) keys: [RecordKey; 4],
    /// Once it has begun.
    pub(super) engine: Option<Box<dht::Publish>>,
    started: Instant,
    reply: Option<oneshot::Sender<Result<PublishReport, PublishError>>>,
    answered: Option<Duration>,
    newer: Option<ValidBundle>,
    /// Of another publication, which found something newer.
    consequence: bool,
    walked: bool,
    /// The engine's last word: good or not.
    done: Option<bool>,
}

impl Publication {
    /// Without `reply`: nobody waits.
    pub(super) fn new(
        bundle: ValidBundle,
        keys: [RecordKey; 4],
        reply: Option<oneshot::Sender<Result<PublishReport, PublishError>>>,
        now: Instant,
    ) -> Self {
        Self {
            bundle,
            keys,
            engine: None,
            started: now,
            consequence: false,
            reply,
            answered: None,
            newer: None,
            walked: false,
            done: None,
        }
    }

    /// Nobody is there to store at. `served_here`: this node keeps the record itself, and somebody may ask it.
    pub(super) fn alone(&mut self, served_here: bool, now: Instant) {
        if served_here {
            // Two nodes, and this is the one that keeps records: done.
            self.answer(Ok(0), now);
            self.done = Some(true);
        } else if now >= self.started + PATIENCE {
            self.answer(Err(PublishError::Alone), now);
            self.done = Some(false);
        }
    }

    pub(super) fn begin(
        &mut self,
        holders: Holders,
        seeds: [Seeds; 4],
        radius_fraction: f64,
        walk: bool,
        salt: u64,
        now: Instant,
    ) {
        self.walked = walk;
        self.engine = Some(Box::new(dht::Publish::new(
            self.bundle.clone(),
            self.keys,
            holders,
            seeds,
            radius_fraction,
            walk,
            WalkConfig::default(),
            salt,
            now,
        )));
    }

    /// Tells who waits, once.
    pub(super) fn answer(&mut self, result: Result<usize, PublishError>, now: Instant) {
        let took = now.saturating_duration_since(self.started);
        self.answered.get_or_insert(took);
        if let Some(reply) = self.reply.take() {
            let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            // Who dropped the future does not want to know.
            let _ = reply.send(result.map(|copies| PublishReport { copies, took_ms }));
        }
    }

    /// A holder has something that this is not.
    pub(super) fn newer(&mut self, newer: ValidBundle) {
        let known = self.newer.as_ref().unwrap_or(&self.bundle);
        let merged = known.merge(&newer);
        if merged != self.bundle {
            self.newer = Some(merged);
        }
    }

    /// What is to be published after this one, because somebody had more of this user: once more, with all of it. Who
    /// still waits, waits for that. `None` after one that was such a consequence itself.
    pub(super) fn successor(&mut self) -> Option<Self> {
        let merged = self.newer.take().filter(|_| !self.consequence)?;
        let next = Self::new(merged, self.keys, self.reply.take(), self.started);
        Some(Self { consequence: true, ..next })
    }

    /// The engine's last word.
    pub(super) fn done(&mut self, result: Result<usize, PublishError>, now: Instant) {
        self.done = Some(result.is_ok());
        if result.is_ok() || self.newer.is_none() || self.consequence {
            self.answer(result, now);
        }
    }

    pub(super) fn was_good(&self) -> bool {
        self.done == Some(true)
    }

    /// From the start to the answer.
    pub(super) fn took(&self) -> Duration {
        self.answered.unwrap_or_default()
    }

    /// It searched, and was good.
    pub(super) fn walked(&self) -> bool {
        self.walked && self.was_good()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        match &self.engine {
            Some(engine) => engine.poll_timeout(),
            None => Some(self.started + PATIENCE),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.done.is_some() && self.engine.as_ref().is_none_or(|engine| engine.is_over())
    }
}

/// Who gave receipts for whose record.
#[derive(Default)]
pub(super) struct Remembered {
    users: HashMap<IdHash, (Holders, Instant)>,
}

impl Remembered {
    /// Whom to send a refresh to at once, and whether to search as well, in an overlay of so many nodes.
    pub(super) fn recall(&self, user: &IdHash, nodes: f64, now: Instant) -> (Holders, bool) {
        match self.users.get(user) {
            Some((holders, searched)) => {
                (holders.clone(), now.saturating_duration_since(*searched) >= between_searches(nodes))
            }
            None => (Holders::default(), true),
        }
    }

    /// Whether there are copies of the user's record with others.
    pub(super) fn has_holders(&self, user: &IdHash) -> bool {
        self.users.get(user).is_some_and(|(holders, _)| holders.iter().any(|each| !each.is_empty()))
    }

    /// After a publication. `searched`: it was a full one, and good.
    pub(super) fn keep(&mut self, user: IdHash, holders: Holders, searched: bool, now: Instant) {
        match self.users.get_mut(&user) {
            Some((held, at)) => {
                *held = holders;
                *at = if searched { now } else { *at };
            }
            None if !searched => {}
            None => {
                if self.users.len() >= MAX_USERS
                    && let Some(oldest) = self.users.iter().min_by_key(|(_, (_, at))| *at).map(|(user, _)| *user)
                {
                    self.users.remove(&oldest);
                }
                self.users.insert(user, (holders, now));
            }
        }
    }

    /// A refresh that was not good: the next one searches.
    pub(super) fn forget(&mut self, user: &IdHash) {
        self.users.remove(user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::sample::Person;

    fn publication(now: Instant) -> (Publication, oneshot::Receiver<Result<PublishReport, PublishError>>) {
        let person = Person::new();
        let (reply, answer) = oneshot::channel();
        (Publication::new(person.bundle(1), person.keys(), Some(reply), now), answer)
    }

    #[test]
    fn alone_is_said_after_three_seconds_and_kept_here_is_good() {
        let now = Instant::now();
        let (mut alone, mut answer) = publication(now);
        alone.alone(false, now);
        assert!(!alone.is_over() && answer.try_recv().is_err());
        alone.alone(false, now + PATIENCE);
        assert!(alone.is_over() && !alone.was_good());
        assert!(matches!(answer.try_recv(), Ok(Err(PublishError::Alone))));
        let (mut kept, mut answer) = publication(now);
        kept.alone(true, now);
        assert!(kept.is_over() && kept.was_good() && answer.try_recv().unwrap().is_ok());
    }

    #[test]
    fn something_newer_is_published_once_more_with_whoever_waits() {
        let (now, person) = (Instant::now(), Person::new());
        let (reply, mut answer) = oneshot::channel();
        let mut first = Publication::new(person.bundle(1), person.keys(), Some(reply), now);
        first.newer(person.bundle(1));
        assert!(first.newer.is_none(), "that is the same");
        first.newer(person.bundle(2));
        first.done(Err(PublishError::TooFew { copies: 0, wanted: 3 }), now);
        assert!(answer.try_recv().is_err(), "not the last word");
        let mut next = first.successor().unwrap();
        assert_eq!(next.bundle, person.bundle(2));
        next.newer(person.bundle(3));
        next.done(Ok(3), now);
        assert!(answer.try_recv().unwrap().is_ok());
        assert!(next.successor().is_none(), "not for ever");
    }

    #[test]
    fn holders_are_remembered_and_searched_for_each_hour_or_so() {
        const NODES: f64 = 100.0;
        let again = between_searches(NODES);
        let (now, mut all, person) = (Instant::now(), Remembered::default(), Person::new());
        let user = person.user.id;
        assert!(all.recall(&user, NODES, now).1);
        all.keep(user, Holders::default(), true, now);
        assert!(!all.recall(&user, NODES, now + again / 2).1);
        all.keep(user, Holders::default(), false, now + again / 2);
        assert!(all.recall(&user, NODES, now + again).1, "the refresh was no search");
        all.forget(&user);
        assert!(all.recall(&user, NODES, now).1);
        for n in 0..MAX_USERS + 10 {
            all.keep(
                IdHash(user.0.map(|b| b.wrapping_add(n as u8).wrapping_mul(1 + (n >> 8) as u8))),
                Holders::default(),
                true,
                now,
            );
        }
        assert!(all.users.len() <= MAX_USERS);
    }
}
