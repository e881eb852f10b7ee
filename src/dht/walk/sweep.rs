//! Asks everybody in the region. Not by nearness, which an attacker chooses, but in turn by the lines that heard of
//! them, first those named from outside of the region, then by a hash nobody can foresee; few of one network first.

use super::super::{Caps, Distance, Diversity, Network, REACH, REGION};
use super::WalkConfig;
use super::peers::{Index, Peers};
use std::collections::{BTreeMap, BTreeSet};

/// Members beyond which a region is more crowded than honest nodes make it, in parts of the expected number: chance is
/// 2 in 10,000 when the overlay is 30 % larger than estimated (SECURITY §4.6).
const CROWDED: usize = 3;

/// As many in two thirds of the radius, in parts of the expected number in all of it: 2 in 100,000.
const DENSE: usize = 2;

/// Members that are silent, in parts of the expected number, from which on they hide those who are not: at chance, where a
/// third is dead, fewer than 1 in 1,000,000 regions has so many.
const SILENT: usize = 2;

/// Requests of a sweep that run at once.
const AT_ONCE: usize = 32;

/// In a wide search, where most may be silent and hold up those behind them.
const AT_ONCE_WIDE: usize = 64;

/// Those who do not answer, in parts of the quota: ghosts must not eat it up, nor keep us dialling.
const GHOSTS: usize = 2;

/// Candidates looked at in one line before the next line's turn.
const GLANCE: usize = 48;

/// Up to how many members a region of few networks is filled up, in parts of the expected number.
const FILL: usize = 2;

#[derive(Debug)]
pub struct Sweep {
    queues: Vec<BTreeMap<(u8, u64), Index>>,
    turn: usize,
    /// Where everybody is asked: also by nearness, and whose turn that is.
    near: BTreeSet<(Distance, Index)>,
    near_turn: bool,
    /// From networks of which enough were asked.
    rest: BTreeMap<u64, Index>,
    /// All who were named from other networks were asked: now from any.
    filling: bool,
    /// Everybody is in the region: networks do not matter.
    pub everybody: bool,
    chosen: Diversity,
    counted: BTreeSet<(Index, u64)>,
    salt: u64,
    pub answered: usize,
    dense: usize,
    open: usize,
    gone: usize,
    quota: usize,
    pub crowded: bool,
    silent: usize,
    /// The surroundings of the region are searched too.
    pub wide: bool,
}

impl Sweep {
    pub fn new(lines: usize, everybody: bool, config: &WalkConfig, salt: u64) -> Self {
        Self {
            queues: vec![BTreeMap::new(); lines],
            turn: 0,
            near: BTreeSet::new(),
            near_turn: false,
            rest: BTreeMap::new(),
            filling: false,
            everybody,
            chosen: Diversity::default(),
            counted: BTreeSet::new(),
            salt,
            answered: 0,
            dense: 0,
            open: 0,
            gone: 0,
            quota: config.quota,
            crowded: false,
            silent: 0,
            wide: false,
        }
    }

    /// A member was heard of.
    pub fn offer(&mut self, at: Index, peers: &Peers, line: usize) {
        let peer = peers.get(at);
        if peer.is_askable() {
            let key = (peer.level, mix(&peer.node.0, self.salt));
            self.queues[line].insert(key, at);
            if self.everybody {
                self.near.insert((peer.distance, at));
            }
        }
    }

    /// Whom to ask next.
    pub fn next(&mut self, peers: &Peers) -> Option<Index> {
        if self.is_full() {
            return None;
        }
        // Who knows three nodes of ten thousand takes them for everybody: without this, it would ask any 64.
        self.near_turn = !self.near_turn;
        if self.near_turn {
            self.near.retain(|(_, at)| peers.get(*at).is_askable());
            let next = self.near.iter().map(|(_, at)| *at).find(|at| peers.is_open_to(*at));
            if next.is_some() {
                return next;
            }
        }
        for _ in 0..self.queues.len() {
            self.turn = (self.turn + 1) % self.queues.len();
            if let Some(at) = self.next_of(self.turn, peers) {
                return Some(at);
            }
        }
        None
    }

    fn is_full(&self) -> bool {
        let at_once = if self.wide { AT_ONCE_WIDE } else { AT_ONCE };
        self.open >= at_once || self.answered + self.open >= self.quota || self.gone >= GHOSTS * self.quota
    }

    /// Whom to ask of the networks of which enough were asked, up to a bound. `quiet`: no line is on its way, so nobody
    /// from other networks is to come.
    pub fn fill(&mut self, peers: &Peers, quiet: bool) -> Option<Index> {
        self.filling |= quiet && self.open == 0 && !self.rest.is_empty();
        if !self.filling || self.is_full() || self.answered + self.open >= FILL * REGION {
            return None;
        }
        self.rest.retain(|_, at| peers.get(*at).is_askable());
        let (hash, at) = self.rest.iter().find(|(_, at)| peers.is_open_to(**at)).map(|(h, a)| (*h, *a))?;
        self.rest.remove(&hash);
        Some(at)
    }

    fn next_of(&mut self, line: usize, peers: &Peers) -> Option<Index> {
        let mut over = Vec::new();
        let mut next = None;
        for (key, at) in self.queues[line].iter().take(GLANCE) {
            let peer = peers.get(*at);
            let network = peers.next_network(*at);
            if !peer.is_askable() {
                over.push((*key, false));
            } else if network.is_none() {
                // Nobody's word for it has credit now.
            } else if self.everybody || network.is_some_and(|network| self.chosen.admit(&network, &Caps::CLOSE)) {
                self.counted.extend(network.map(|network| (*at, network.subnet)));
                over.push((*key, false));
                next = Some(*at);
                break;
            } else {
                over.push((*key, true));
            }
        }
        for (key, rest) in over {
            if let Some(at) = self.queues[line].remove(&key)
                && rest
            {
                self.rest.insert(key.1, at);
            }
        }
        next
    }

    pub fn asked(&mut self) {
        self.open += 1;
    }

    /// It does not hold the sweep up any more.
    pub fn overdue(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// A member does not answer in time, or not at all. Whether so many do not that the surroundings are to be searched;
    /// never for quotas: silence costs a liar nothing.
    pub fn is_silent(&mut self) -> bool {
        self.silent += 1;
        let newly = self.silent >= SILENT * REGION && !self.everybody && !self.wide;
        self.wide |= newly;
        newly
    }

    /// A member answered. Whether that made it a crowd whose surroundings are to be searched.
    pub fn answered(&mut self, in_two_thirds: bool, config: &WalkConfig) -> bool {
        self.answered += 1;
        self.dense += usize::from(in_two_thirds);
        let expected = if self.wide { REACH as usize * REGION } else { REGION };
        let crowd = self.answered > CROWDED * expected || self.dense >= DENSE * expected;
        let newly = crowd && !self.everybody && !self.crowded;
        if newly {
            self.crowded = true;
            self.quota = config.alarm_quota.max(self.quota);
        }
        newly && !std::mem::replace(&mut self.wide, true)
    }

    pub fn gone(&mut self, at: Index, network: &Network) {
        self.gone += 1;
        if self.counted.remove(&(at, network.subnet)) {
            self.chosen.release(network);
        }
    }

    pub fn is_working(&self) -> bool {
        self.open > 0
    }
}

/// Nobody knows the salt of a walk but who walks: no need for a cryptographic hash of (node, salt).
fn mix(node: &[u8; 32], salt: u64) -> u64 {
    let mut state = salt;
    for chunk in node.chunks_exact(8) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 27;
    }
    state
}
