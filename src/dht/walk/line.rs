//! One isolated way to the region: one open question, a few candidates, seeds in reserve. What a line is told only that
//! line believes, so a liar captures the lines that meet it and no others. A path is `parallel` lines; each keeps to
//! itself, because a beam that two share is filled up by the liar that one of them met.

use super::super::Distance;
use super::peers::{Index, Peers};
use std::collections::VecDeque;
use std::time::Instant;

#[derive(Debug, Default)]
pub struct Line {
    spares: VecDeque<Index>,
    /// Nearest first.
    beam: Vec<(Distance, Index)>,
    /// A question that is not overdue.
    busy: bool,
    /// It was pointed to members of the region at this time, and none of them has answered yet.
    pointed: Option<Instant>,
    pub arrived: bool,
    /// Its candidates were asked by others: it has nothing of its own to add.
    merged: bool,
}

impl Line {
    pub fn reserve(&mut self, seed: Index) {
        self.spares.push_back(seed);
    }

    /// Who to ask next. `working`: somebody in the region is being asked, so an arrival may come.
    pub fn next(&mut self, peers: &Peers, working: bool) -> Option<Index> {
        if self.busy || self.arrived || (self.pointed.is_some() && working) {
            return None;
        }
        let before = self.beam.len();
        self.beam.retain(|(_, at)| peers.get(*at).is_askable());
        self.merged |= self.beam.len() < before;
        while self.beam.is_empty() && !self.merged {
            let seed = self.spares.pop_front()?;
            if peers.get(seed).is_askable() {
                self.beam.push((peers.get(seed).distance, seed));
            }
        }
        self.beam.iter().map(|(_, at)| *at).find(|at| peers.is_open_to(*at))
    }

    pub fn asked(&mut self, at: Index) {
        self.busy = true;
        self.beam.retain(|(_, other)| *other != at);
    }

    pub fn offer(&mut self, distance: Distance, at: Index, beam: usize) {
        let place = self.beam.partition_point(|(other, _)| *other < distance);
        if place < beam && self.beam.iter().all(|(_, other)| *other != at) {
            self.beam.insert(place, (distance, at));
            self.beam.truncate(beam);
        }
    }

    /// Its question is answered, failed or overdue.
    pub fn free(&mut self) {
        self.busy = false;
        self.merged = false;
    }

    pub fn points(&mut self, now: Instant) {
        self.pointed.get_or_insert(now);
    }

    /// The members that it was pointed to take too long.
    pub fn expire(&mut self, before: Instant) {
        if self.pointed.is_some_and(|at| at <= before) {
            self.pointed = None;
        }
    }

    pub fn pointed(&self) -> Option<Instant> {
        self.pointed.filter(|_| !self.arrived)
    }

    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Goes again from a fresh seed, if one is left.
    pub fn restart(&mut self, peers: &Peers) -> bool {
        self.spares.retain(|at| peers.get(*at).is_askable());
        if self.busy || self.spares.is_empty() {
            return false;
        }
        (self.arrived, self.merged, self.pointed) = (false, false, None);
        self.beam.clear();
        true
    }
}
