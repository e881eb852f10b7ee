//! Who is known: servers that this node itself dialled, authenticated and had a correct answer from (SECURITY §4.3).
//! Buckets for the way, the neighbourhood for the region; old friends first.

use super::walk::Seeds;
use super::{Card, Position};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use std::net::IpAddr;
use std::sync::Arc;

/// What a table did with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// In the table now, or still.
    In,
    /// Kept in mind for when there is room.
    Waits,
    /// Not a server, the node itself, or no room to remember it.
    No,
}

/// How large the overlay is, and how wide a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub nodes: f64,
}

impl Estimate {
    /// Radius of a region as a share of the space, at most 1: `REGION / nodes`.
    pub fn region(&self) -> f64 {
        unimplemented!()
    }
}

#[derive(Debug)]
pub struct Table {}

impl Table {
    pub fn new(here: Position) -> Self {
        unimplemented!()
    }

    /// A server that was dialled at `ip`, authenticated, and gave a correct answer. `first_seen` is kept from before
    /// when it is known (table, cache), else `now`.
    pub fn verified(&mut self, card: Arc<Card>, ip: IpAddr, now: UnixMillis) -> Admission {
        unimplemented!()
    }

    /// As [`Table::verified`], of a peer that an earlier session knew since `first_seen` (peer cache, tests, simulator).
    pub fn restored(&mut self, card: Arc<Card>, ip: IpAddr, first_seen: UnixMillis, now: UnixMillis) -> Admission {
        unimplemented!()
    }

    /// A later card of a peer that is known.
    pub fn renew(&mut self, card: &Arc<Card>) {
        unimplemented!()
    }

    /// A scheduled probe or a request of our own failed to reach it. Three in a row and it is out.
    pub fn failed(&mut self, node: &NodeKey, now: UnixMillis) {
        unimplemented!()
    }

    /// Out at once: it does not serve any more, or the ledger says so.
    pub fn remove(&mut self, node: &NodeKey) {
        unimplemented!()
    }

    /// Whose turn it is to be probed, at most `max`; on the table's own timetable.
    pub fn probes(&mut self, now: UnixMillis, max: usize) -> Vec<Arc<Card>> {
        unimplemented!()
    }

    /// The answer to FIND and FETCH: half nearest, half the oldest of the region around, one of each /24 first.
    pub fn answer(&self, target: &Position, now: UnixMillis) -> Vec<Arc<Card>> {
        unimplemented!()
    }

    /// Where a walk of our own begins. `shunned`: whom the ledger would rather not ask; they come last.
    pub fn seeds(&self, target: &Position, salt: u64, shunned: &dyn Fn(&NodeKey) -> bool) -> Seeds {
        unimplemented!()
    }

    pub fn estimate(&self) -> Estimate {
        unimplemented!()
    }

    /// Known servers nearer to `target` than this node, up to `most`: for "is this record mine".
    pub fn nearer_than_here(&self, target: &Position, most: usize) -> usize {
        unimplemented!()
    }

    pub fn get(&self, node: &NodeKey) -> Option<&Arc<Card>> {
        unimplemented!()
    }

    pub fn len(&self) -> usize {
        unimplemented!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All, with when each was first seen: for the peer cache and the status.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Card>, UnixMillis)> {
        std::iter::empty()
    }
}
