//! One walk to one position: eight isolated paths that find the region, and the sweep that asks everybody in it
//! (SECURITY §4.4). Knows nothing of records: what it asks at a peer is its owner's business.
//!
//! ```text
//! seeds ─ dealt ─→ lines (paths x parallel), each: ask, believe what is nearer than the answerer, ask on
//!                    │ members of the region that they hear of
//!                    ▼
//!                  sweep: asks every member; members name members
//! ```
//! A peer is asked once, its answer goes to the line that asked; a failure belongs to the card that was tried.

mod line;
mod pace;
mod peers;
mod sweep;

#[cfg(test)]
mod tests;

use self::line::Line;
use self::pace::Pace;
use self::peers::{Index, Peers, State, Word};
use self::sweep::Sweep;
use super::{Card, Distance, Failure, MAX_PEERS, Observation, Observations, Position, REACH, REGION};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Overlays of so many nodes have one region: everybody (SECURITY §4.5).
pub const EVERYBODY: usize = 64;

/// The numbers of a walk. The defaults are those of a node; others are for measuring what each is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct WalkConfig {
    /// Isolated ways, and with how many of them it begins: the others wait for doubt ([`Walk::press_on`]).
    pub paths: usize,
    pub first: usize,
    /// Requests of a path that run at once.
    pub parallel: usize,
    /// Candidates that a path keeps.
    pub beam: usize,
    /// Peers of the region that are contacted: usually, and when it is more crowded than honest nodes make it.
    pub quota: usize,
    pub alarm_quota: usize,
    /// A silent peer stops holding up its path, and is given up.
    pub soft: Duration,
    pub hard: Duration,
    /// The whole walk.
    pub deadline: Duration,
}

impl Default for WalkConfig {
    fn default() -> Self {
        Self {
            paths: 8,
            first: 4,
            parallel: 2,
            beam: 4,
            quota: 64,
            alarm_quota: 256,
            soft: Duration::from_millis(1_500),
            hard: Duration::from_secs(4),
            deadline: Duration::from_secs(10),
        }
    }
}

impl WalkConfig {
    /// A search through one node alone, to compare what it shows with what others do: one way, and no more of the region
    /// than that takes.
    pub fn look() -> Self {
        Self { paths: 1, first: 1, parallel: 3, beam: 8, quota: 24, alarm_quota: 24, ..Self::default() }
    }
}

/// Who a walk begins with: from [`super::Table::seeds`].
#[derive(Clone, Debug, Default)]
pub struct Seeds {
    /// Nearest known to the target.
    pub near: Vec<Arc<Card>>,
    /// Any.
    pub random: Vec<Arc<Card>>,
}

/// Tells a question of a walk from its others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// A peer to ask.
#[derive(Clone, Debug)]
pub struct Step {
    pub id: StepId,
    pub to: Arc<Card>,
}

/// The walk.
#[derive(Debug)]
pub struct Walk {
    target: Position,
    radius: Distance,
    config: WalkConfig,
    peers: Peers,
    lines: Vec<Line>,
    /// Lines on their way; those behind have seeds of their own.
    active: usize,
    turn: usize,
    sweep: Sweep,
    pace: Pace,
    open: BTreeMap<StepId, Open>,
    steps: u64,
    /// `poll` had nothing more to ask since the last input.
    idle: bool,
    deadline: Instant,
    region: Vec<Arc<Card>>,
    observations: Observations,
}

/// A question under way.
#[derive(Debug)]
struct Open {
    peer: Index,
    card: Arc<Card>,
    /// The line that asks; `None` is the sweep.
    line: Option<usize>,
    /// Whose word caused it.
    payer: Option<Index>,
    since: Instant,
    overdue: bool,
}

impl Walk {
    /// `radius_fraction`: of the region, as a share of the space (`Estimate::region`); where no more than
    /// `EVERYBODY` nodes follow from it, all of it. `salt`: makes choices differ from walk to walk, and repeatable.
    pub fn new(
        target: Position,
        seeds: Seeds,
        radius_fraction: f64,
        config: WalkConfig,
        salt: u64,
        now: Instant,
    ) -> Self {
        let everybody = is_everybody(radius_fraction);
        let radius = if everybody { Distance::MAX } else { Distance::of_fraction(radius_fraction) };
        let lines = (config.paths.max(1) * config.parallel.max(1)).min(64);
        let mut walk = Self {
            target,
            radius,
            peers: Peers::default(),
            lines: (0..lines).map(|_| Line::default()).collect(),
            active: (config.first.max(1) * config.parallel.max(1)).min(lines),
            turn: 0,
            sweep: Sweep::new(lines, everybody, &config, salt),
            pace: Pace::new(config.soft),
            open: BTreeMap::new(),
            steps: 0,
            idle: false,
            deadline: now + config.deadline,
            region: Vec::new(),
            observations: Vec::new(),
            config,
        };
        walk.deal(&seeds);
        walk
    }

    /// Near and random ones in turn to each line: a line that fails with the nearest goes on from far away.
    fn deal(&mut self, seeds: &Seeds) {
        let mut dealt = 0;
        let count = self.lines.len();
        let (mut near, mut random) = (seeds.near.iter(), seeds.random.iter());
        let mut round = 0;
        loop {
            let batch: Vec<&Arc<Card>> = if round % 2 == 0 {
                near.by_ref().take(count).collect()
            } else {
                random.by_ref().take(count).collect()
            };
            round += 1;
            if batch.is_empty() && near.len() == 0 && random.len() == 0 {
                return;
            }
            for card in batch {
                let line = dealt % count;
                let at = self.peers.learn(card, &self.target, None, line);
                let peer = self.peers.get_mut(at);
                if peer.seed.replace(card.clone()).is_some() {
                    continue;
                }
                dealt += 1;
                if peer.distance <= self.radius {
                    (peer.member, peer.level) = (true, 0);
                    self.sweep.offer(at, &self.peers, line);
                } else {
                    self.lines[line].reserve(at);
                }
            }
        }
    }

    /// The next peer to ask now, if any; to be called until `None` after each input.
    pub fn poll(&mut self, now: Instant) -> Option<Step> {
        if now >= self.deadline {
            return None;
        }
        self.expire(now);
        let step = self.poll_sweep(now).or_else(|| self.poll_lines(now)).or_else(|| self.poll_fill(now));
        self.idle = step.is_none();
        step
    }

    fn poll_sweep(&mut self, now: Instant) -> Option<Step> {
        let at = self.sweep.next(&self.peers)?;
        self.sweep.asked();
        self.ask(at, None, now)
    }

    fn poll_fill(&mut self, now: Instant) -> Option<Step> {
        let quiet = !self.lines.iter().any(Line::is_busy);
        let at = self.sweep.fill(&self.peers, quiet)?;
        self.sweep.asked();
        self.ask(at, None, now)
    }

    fn poll_lines(&mut self, now: Instant) -> Option<Step> {
        let working = self.sweep.is_working();
        for _ in 0..self.active {
            self.turn = (self.turn + 1) % self.active;
            if let Some(at) = self.lines[self.turn].next(&self.peers, working) {
                self.lines[self.turn].asked(at);
                return self.ask(at, Some(self.turn), now);
            }
        }
        None
    }

    fn ask(&mut self, at: Index, line: Option<usize>, now: Instant) -> Option<Step> {
        let (card, payer) = self.peers.ask(at)?;
        self.peers.get_mut(at).line_asked = line;
        let id = StepId(self.steps);
        self.steps += 1;
        self.open.insert(id, Open { peer: at, card: card.clone(), line, payer, since: now, overdue: false });
        Some(Step { id, to: card })
    }

    /// A peer answered with peers; at most [`MAX_PEERS`] of them are looked at.
    pub fn answered(&mut self, step: StepId, peers: &[Arc<Card>], now: Instant) {
        let Some(open) = self.open.remove(&step) else { return };
        self.idle = false;
        self.pace.answered(now.saturating_duration_since(open.since));
        self.settle(&open);
        let answerer = open.peer;
        let mut first = false;
        note_words(&mut self.observations, |note| first = self.peers.is_here(answerer, &open.card, open.overdue, note));
        if !first {
            return;
        }
        self.arrive_by(answerer);
        let (member, distance) = (self.peers.get(answerer).member, self.peers.get(answerer).distance);
        if member {
            let dense = distance.fraction() * 1.5 <= self.radius.fraction();
            let crowd = self.sweep.answered(dense, &self.config);
            self.region.push(open.card.clone());
            if crowd {
                self.widen();
            }
        }
        let line = open.line.unwrap_or(self.peers.get(answerer).line);
        let level = if member { self.peers.get(answerer).level.saturating_add(1) } else { 0 };
        let mut arrived = false;
        let mut points = false;
        for card in peers.iter().take(MAX_PEERS) {
            let near = card.position.distance(&self.target);
            if near <= self.radius {
                let at = self.learn_member(card, answerer, line, level);
                arrived |= self.peers.get(at).state == State::Answered;
                points |= matches!(self.peers.get(at).state, State::New | State::Open);
            } else if near < distance && open.line.is_some() {
                let at = self.peers.learn(card, &self.target, Some(answerer), line);
                self.lines[line].offer(near, at, self.config.beam);
            }
        }
        if let Some(line) = open.line {
            self.lines[line].arrived |= arrived;
            if points {
                self.lines[line].points(now);
            }
        }
    }

    /// A crowd around the target, or silence: its surroundings are searched too, as far as holders keep records. Whoever
    /// wants to crowd those as well needs so many times the networks.
    fn widen(&mut self) {
        self.radius = Distance::of_fraction((self.radius.fraction() * REACH).min(1.0));
        self.active = self.lines.len();
        for at in self.peers.within(self.radius) {
            let peer = self.peers.get_mut(at);
            (peer.member, peer.level) = (true, 0);
            match peer.answered_by() {
                Some(card) => self.region.push(card),
                None => {
                    let line = peer.line;
                    self.sweep.offer(at, &self.peers, line);
                }
            }
        }
    }

    fn learn_member(&mut self, card: &Arc<Card>, source: Index, line: usize, level: u8) -> Index {
        let at = self.peers.learn(card, &self.target, Some(source), line);
        let peer = self.peers.get_mut(at);
        peer.member = true;
        peer.level = peer.level.min(level);
        self.sweep.offer(at, &self.peers, line);
        at
    }

    /// Lines whose answerers named this member are there.
    fn arrive_by(&mut self, at: Index) {
        if !self.peers.get(at).member {
            return;
        }
        for source in self.peers.sources(at) {
            if !source.member {
                self.lines[source.line_asked.unwrap_or(source.line)].arrived = true;
            }
        }
    }

    pub fn failed(&mut self, step: StepId, why: Failure, now: Instant) {
        let Some(open) = self.open.remove(&step) else { return };
        self.idle = false;
        self.settle(&open);
        self.gone(&open, why != Failure::Busy);
    }

    /// The line, the sweep and the source are free of this question.
    fn settle(&mut self, open: &Open) {
        if open.overdue {
            return;
        }
        self.peers.release(open.payer);
        match open.line {
            Some(line) => self.lines[line].free(),
            None => self.sweep.overdue(),
        }
    }

    fn gone(&mut self, open: &Open, absent: bool) {
        let at = open.peer;
        if absent && !open.overdue {
            self.silent(open);
            self.missed(open);
        }
        if open.line.is_none() {
            self.sweep.gone(at, &open.card.network);
        }
        let mut more = false;
        note_words(&mut self.observations, |note| more = self.peers.is_gone(at, &open.card, open.overdue, note));
        if !more {
            return;
        }
        let peer = self.peers.get(at);
        match open.line {
            Some(line) => self.lines[line].offer(peer.distance, at, self.config.beam),
            None => self.sweep.offer(at, &self.peers, peer.line),
        }
    }

    /// Nobody answers there, or not in time.
    fn missed(&mut self, open: &Open) {
        if open.line.is_none() && self.sweep.is_silent() {
            self.widen();
        }
    }

    /// Held against those alone whom we know, and at the address that we know: a liar may name them by an old card.
    fn silent(&mut self, open: &Open) {
        let peer = self.peers.get(open.peer);
        if peer.seed.as_ref() == Some(&open.card) {
            self.observations.push((peer.node, Observation::Silent));
        }
    }

    /// Overdue questions stop holding up who asked; much later they are given up.
    fn expire(&mut self, now: Instant) {
        let soft = self.pace.soft();
        let (mut late, mut hard) = (Vec::new(), Vec::new());
        for (id, open) in &mut self.open {
            let age = now.saturating_duration_since(open.since);
            if age >= soft && !open.overdue {
                late.push(*id);
            }
            if age >= self.config.hard {
                hard.push(*id);
            }
        }
        for id in late {
            let Some(mut open) = self.open.remove(&id) else { continue };
            self.settle(&open);
            note_words(&mut self.observations, |note| self.peers.is_slow(open.peer, &open.card, note));
            self.silent(&open);
            self.missed(&open);
            open.overdue = true;
            self.open.insert(id, open);
        }
        for id in hard {
            if let Some(open) = self.open.remove(&id) {
                self.gone(&open, true);
            }
        }
        if let Some(before) = now.checked_sub(soft) {
            self.lines.iter_mut().for_each(|line| line.expire(before));
        }
    }

    /// When to call `poll` again at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let soft = self.pace.soft();
        let questions = self.open.values().map(|open| open.since + if open.overdue { self.config.hard } else { soft });
        let pointed = self.lines.iter().filter_map(|line| Some(line.pointed()? + soft));
        let next = questions.chain(pointed.filter(|_| self.sweep.is_working())).min()?;
        Some(next.min(self.deadline))
    }

    /// All paths have arrived or ended and the sweep is through, or the deadline has passed. To be asked when `poll`
    /// gave `None`.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline || (self.idle && self.open.is_empty())
    }

    /// Nothing is to be asked, and only peers that are overdue have not answered.
    pub fn is_idle(&self, now: Instant) -> bool {
        now >= self.deadline || (self.idle && self.open.values().all(|open| open.overdue))
    }

    /// For when its owner is not content with what the region says: the paths that waited go, and when all have gone,
    /// each goes again from a seed that was not used yet. False when no seed is left.
    pub fn press_on(&mut self) -> bool {
        if self.active < self.lines.len() {
            self.active = self.lines.len();
            self.idle = false;
            return true;
        }
        let restarted = self.lines.iter_mut().filter_map(|line| line.restart(&self.peers).then_some(())).count();
        self.idle &= restarted == 0;
        restarted > 0
    }

    /// When it ends at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Peers of the region that answered, in the order in which they did.
    pub fn region(&self) -> &[Arc<Card>] {
        &self.region
    }

    /// Every node counts as one of the region: the overlay is small.
    pub fn is_everybody(&self) -> bool {
        self.sweep.everybody
    }

    /// More peers claim to be in the region than honest ones would be.
    pub fn is_crowded(&self) -> bool {
        self.sweep.crowded
    }

    /// Since the last call.
    pub fn take_observations(&mut self) -> Observations {
        std::mem::take(&mut self.observations)
    }
}

/// Whether a region of this share of the space is better taken as all of it.
pub(super) fn is_everybody(radius_fraction: f64) -> bool {
    radius_fraction * EVERYBODY as f64 >= REGION as f64
}

fn note_words(into: &mut Observations, act: impl FnOnce(&mut dyn FnMut(crate::identity::NodeKey, Word))) {
    act(&mut |node, word| {
        into.push((node, if word == Word::Useful { Observation::Useful } else { Observation::Ghosts }));
    });
}
