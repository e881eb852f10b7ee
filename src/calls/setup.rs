//! A call before the answer: who rings, who rings next, and what the caller has been told. Pure, part of the machine.

use super::cause;
use super::machine::{Branch, Effect, Side};
use crate::identity::NodeKey;
use crate::locator::LocateError;
use crate::record::VerifiedDevice;
use crate::sip::{Cause, ContactId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Devices of a user that one call dials at most: a bundle has no more.
const MOST_DEVICES: usize = 8;

/// Phones and devices of one call at most.
const MOST_BRANCHES: usize = 64;

/// How long devices of the best priority ring alone.
const NEXT_PRIORITY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Contact(ContactId),
    Device(VerifiedDevice),
}

#[derive(Debug)]
pub(super) struct Setup {
    no_answer: Instant,
    ring_timeout: Duration,
    searching: bool,
    live: BTreeMap<Branch, bool>,
    waiting: Vec<(Instant, VerifiedDevice)>,
    known: BTreeSet<NodeKey>,
    next: u32,
    best: Option<Cause>,
    rung: bool,
    early: Option<Branch>,
}

impl Setup {
    pub(super) fn new(ring_timeout: Duration, searching: bool, now: Instant) -> Self {
        Self {
            no_answer: now + ring_timeout,
            ring_timeout,
            searching,
            live: BTreeMap::new(),
            waiting: Vec::new(),
            known: BTreeSet::new(),
            next: 0,
            best: None,
            rung: false,
            early: None,
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.waiting.iter().map(|(due, _)| *due).fold(self.no_answer, Instant::min)
    }

    pub(super) fn no_answer(&self, now: Instant) -> bool {
        now >= self.no_answer
    }

    pub(super) fn is_live(&self, branch: Branch) -> bool {
        self.live.contains_key(&branch)
    }

    /// A failure that may become the answer to the caller.
    pub(super) fn note(&mut self, why: Cause) {
        self.best = Some(cause::better(self.best.take(), why));
    }

    pub(super) fn dial(&mut self, target: Target, effects: &mut VecDeque<Effect>) {
        if self.live.len() >= MOST_BRANCHES {
            return;
        }
        let branch = Branch(self.next);
        self.next += 1;
        self.live.insert(branch, false);
        effects.push_back(Effect::Dial { branch, target });
    }

    /// Devices of a binding, best first: those of the first priority now, each further one later. Known ones go on.
    pub(super) fn found(&mut self, devices: Vec<VerifiedDevice>, now: Instant, effects: &mut VecDeque<Effect>) {
        let (mut level, mut priority) = (0, None);
        for device in devices {
            if priority.is_some_and(|priority| priority != device.priority) {
                level += 1;
            }
            priority = Some(device.priority);
            if self.known.len() >= MOST_DEVICES || !self.known.insert(device.node) {
                continue;
            }
            if device.dnd {
                self.note(cause::do_not_disturb());
            } else if level == 0 {
                self.dial(Target::Device(device), effects);
            } else {
                self.waiting.push((now + NEXT_PRIORITY * level, device));
            }
        }
    }

    pub(super) fn located(&mut self, result: Result<(), LocateError>) {
        self.searching = false;
        if let Err(error) = result {
            self.note(cause::of_lookup(error));
        }
    }

    pub(super) fn dial_due(&mut self, now: Instant, effects: &mut VecDeque<Effect>) {
        let (due, later) = std::mem::take(&mut self.waiting).into_iter().partition(|(due, _)| *due <= now);
        self.waiting = later;
        let due: Vec<(Instant, VerifiedDevice)> = due;
        for (_, device) in due {
            self.dial(Target::Device(device), effects);
        }
    }

    /// When nobody rings any more, those who would have come later come now.
    pub(super) fn dial_if_idle(&mut self, effects: &mut VecDeque<Effect>) {
        if self.live.is_empty()
            && let Some(first) = self.waiting.iter().map(|(due, _)| *due).min()
        {
            self.dial_due(first, effects);
        }
    }

    /// True when the caller may hear that it rings, from this or before.
    pub(super) fn progress(
        &mut self,
        branch: Branch,
        status: u16,
        sdp: Option<Bytes>,
        now: Instant,
        effects: &mut VecDeque<Effect>,
    ) -> bool {
        let Some(rings) = self.live.get_mut(&branch) else { return false };
        if status == 180 {
            *rings = true;
        }
        let first = !self.rung && (status == 180 || sdp.is_some());
        match sdp {
            // Early media of the first who has any: the caller can hear one only.
            Some(sdp) if self.early.is_none() => {
                self.early = Some(branch);
                effects.push_back(Effect::Ring { status: 183, early: Some((branch, sdp)) });
            }
            Some(_) | None if first => effects.push_back(Effect::Ring { status: 180, early: None }),
            Some(_) | None => {}
        }
        if first {
            self.rung = true;
            // The way to the phone does not count as ringing.
            self.no_answer = now + self.ring_timeout;
        }
        self.rung
    }

    /// The branch has ended by itself. False when it had before.
    pub(super) fn gone(&mut self, branch: Branch, effects: &mut VecDeque<Effect>) -> bool {
        if self.live.remove(&branch).is_none() {
            return false;
        }
        if self.early == Some(branch) {
            self.early = None;
        }
        effects.push_back(Effect::FreeMedia(Side::Callee(branch)));
        true
    }

    /// Stops the search and every branch but one.
    pub(super) fn end_all_but(&mut self, winner: Option<Branch>, why: &Cause, effects: &mut VecDeque<Effect>) {
        if self.searching {
            effects.push_back(Effect::StopLocate);
        }
        self.searching = false;
        self.waiting.clear();
        for branch in std::mem::take(&mut self.live).into_keys().filter(|branch| Some(*branch) != winner) {
            effects.push_back(Effect::HangUp { branch, cause: why.clone() });
            effects.push_back(Effect::FreeMedia(Side::Callee(branch)));
        }
    }

    /// The answer for the caller when nobody is left to wait for.
    pub(super) fn over(&self) -> Option<Cause> {
        if self.searching || !self.live.is_empty() || !self.waiting.is_empty() {
            return None;
        }
        Some(self.best.clone().unwrap_or_else(cause::no_phone))
    }
}
