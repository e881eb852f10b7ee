//! Receipts of a publication, and whether they are enough: from six subnets in three regions, or from as many as there
//! are (SECURITY §4.4; "at least N" means the smaller of N and what exists).

use super::super::{Card, REPLICAS};
use crate::identity::NodeKey;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Subnets, and no fewer nodes.
const SUBNETS: usize = 6;
const REGIONS: usize = 3;

#[derive(Debug, Default)]
pub struct Receipts {
    /// Asked to keep it, by key.
    expected: [BTreeSet<NodeKey>; REPLICAS],
    expected_subnets: BTreeSet<u64>,
    holders: [Vec<Arc<Card>>; REPLICAS],
    subnets: BTreeSet<u64>,
    nodes: BTreeSet<NodeKey>,
}

impl Receipts {
    /// One more is asked; false if it was already.
    pub fn expect(&mut self, key: usize, card: &Card) -> bool {
        self.expected_subnets.insert(card.network.subnet);
        self.expected[key].insert(card.node)
    }

    pub fn kept(&mut self, key: usize, card: Arc<Card>) {
        if self.holders[key].iter().all(|other| other.node != card.node) {
            self.subnets.insert(card.network.subnet);
            self.nodes.insert(card.node);
            self.holders[key].push(card);
        }
    }

    fn expected_nodes(&self) -> usize {
        self.expected.iter().flatten().collect::<BTreeSet<_>>().len()
    }

    fn regions(&self) -> usize {
        self.holders.iter().filter(|holders| !holders.is_empty()).count()
    }

    /// `all_known`: nobody else is to be found, so it may be that fewer exist than are wanted.
    pub fn is_good(&self, all_known: bool) -> bool {
        if self.nodes.is_empty() {
            return false;
        }
        let at_least = |want: usize, exist: usize| if all_known { want.min(exist) } else { want };
        let regions = self.expected.iter().filter(|expected| !expected.is_empty()).count();
        self.subnets.len() >= at_least(SUBNETS, self.expected_subnets.len())
            && self.nodes.len() >= at_least(SUBNETS, self.expected_nodes())
            && self.regions() >= at_least(REGIONS, regions)
    }

    /// Three quarters of those asked: what a refresh without a search wants.
    pub fn most_answered(&self) -> bool {
        let asked: usize = self.expected.iter().map(BTreeSet::len).sum();
        self.copies() * 4 >= asked * 3
    }

    pub fn copies(&self) -> usize {
        self.holders.iter().map(Vec::len).sum()
    }

    pub fn wanted(&self) -> usize {
        SUBNETS.min(self.expected_nodes())
    }

    pub fn holders(&self) -> &[Vec<Arc<Card>>; REPLICAS] {
        &self.holders
    }
}
