//! Which held records are to be passed on to whom: a server that came into a record's region gets it, and so does the
//! one that moves up when another has gone. Owners republish by themselves every 20 minutes; this closes the time in
//! between, and heals what a liar did not keep.
//!
//! Not every holder passes everything on: for each record and newcomer a hash names two of the region's members. With
//! 30 % liars both are liars one time in eleven; then the owner's next walk does it.

use super::Holding;
use crate::clock::UnixMillis;
use crate::dht::{Card, Position, REGION};
use crate::identity::NodeKey;
use crate::record::RecordKey;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Records passed on in a minute at most: at 1 KiB each, 8 kbit/s.
const PER_MINUTE: usize = 60;

/// Members of a region that pass a record on.
const PUSHERS: usize = 2;

/// A server must have been there for so long, and a record unchanged: who flaps costs nothing, and its owner, who is
/// publishing it now, reaches the newcomer too.
const SETTLED_MS: u64 = 120_000;

/// Servers that this node has known for longer than this are not new: the table has them from an earlier session.
const NEW_MS: u64 = 3_600_000;

/// A record that ends sooner is not worth a message.
const LEFT_MS: u64 = 300_000;

/// Records looked at for one change in one call, changes that wait, and servers looked at: some 3 ms a call.
const BATCH: usize = 1_024;
const MAX_CHANGES: usize = 64;
const MAX_SERVERS: usize = 256;

#[derive(Debug)]
enum What {
    /// A server came.
    Came(Arc<Card>),
    /// One has gone: the last of each region that it was in has moved up.
    Gone(Position),
}

#[derive(Debug)]
struct Change {
    what: What,
    /// Not looked at before.
    due: UnixMillis,
    /// Held when it became due; taken from the end.
    keys: Option<Vec<RecordKey>>,
}

/// The schedule of one holder.
#[derive(Debug)]
pub struct Repair {
    here: NodeKey,
    /// Servers known at the last call.
    known: HashMap<NodeKey, Arc<Card>>,
    changes: VecDeque<Change>,
    /// Passed on since, for the rate.
    since: UnixMillis,
    passed: usize,
}

/// So far ahead that the clock was set back since: what is waited for now would hold up everything behind it.
fn is_of_another_clock(at: UnixMillis, now: UnixMillis) -> bool {
    at.0 > now.0.saturating_add(2 * SETTLED_MS)
}

impl Repair {
    pub fn new(here: NodeKey) -> Self {
        Self { here, known: HashMap::new(), changes: VecDeque::new(), since: UnixMillis(0), passed: 0 }
    }

    /// What to pass on now. `servers`: those that this node knows and that are nearest to it, each with when it was
    /// first seen; to be called every few seconds with all of them ([`super::super::Table::iter`]).
    pub fn poll<'a>(
        &mut self,
        holding: &Holding,
        servers: impl Iterator<Item = (&'a Arc<Card>, UnixMillis)>,
        now: UnixMillis,
    ) -> Vec<(RecordKey, Arc<Card>)> {
        if now.0.abs_diff(self.since.0) >= 60_000 {
            (self.since, self.passed) = (now, 0);
        }
        let here = Position::of_node(&self.here);
        let mut near: Vec<(&Arc<Card>, UnixMillis)> = servers.filter(|(card, _)| card.node != self.here).collect();
        if near.len() > MAX_SERVERS {
            near.select_nth_unstable_by_key(MAX_SERVERS, |(card, _)| card.position.distance(&here));
            near.truncate(MAX_SERVERS);
        }
        self.notice(&near, now);
        let mut region: Vec<(NodeKey, Position)> = near.iter().map(|(card, _)| (card.node, card.position)).collect();
        region.push((self.here, here));
        let mut pushes = Vec::new();
        if let Some(mut change) = self.changes.pop_front() {
            if change.due > now && !is_of_another_clock(change.due, now) {
                self.changes.push_front(change);
                return pushes;
            }
            let done = self.work(&mut change, holding, &region, &mut pushes, now);
            if !done {
                self.changes.push_front(change);
            }
        }
        pushes
    }

    fn notice(&mut self, near: &[(&Arc<Card>, UnixMillis)], now: UnixMillis) {
        let first = self.known.is_empty();
        let mut before = std::mem::take(&mut self.known);
        let mut changes = Vec::new();
        for (card, first_seen) in near {
            let is_new = before.remove(&card.node).is_none();
            if is_new && !first && now.0.saturating_sub(first_seen.0) < NEW_MS {
                changes.push(What::Came(Arc::clone(card)));
            }
            self.known.insert(card.node, Arc::clone(card));
        }
        changes.extend(before.into_values().map(|card| What::Gone(card.position)));
        for what in changes {
            // Many changes at once are a partition or a start, and owners republish anyway.
            if self.changes.len() < MAX_CHANGES {
                self.changes.push_back(Change { what, due: UnixMillis(now.0 + SETTLED_MS), keys: None });
            }
        }
    }

    /// Goes on with a change; true when it is through.
    fn work(
        &mut self,
        change: &mut Change,
        holding: &Holding,
        region: &[(NodeKey, Position)],
        pushes: &mut Vec<(RecordKey, Arc<Card>)>,
        now: UnixMillis,
    ) -> bool {
        if let What::Came(card) = &change.what
            && !self.known.contains_key(&card.node)
        {
            return true;
        }
        let keys = change.keys.get_or_insert_with(|| holding.keys().copied().collect());
        for _ in 0..BATCH {
            if self.passed >= PER_MINUTE {
                return false;
            }
            let Some(key) = keys.pop() else { return true };
            let settled = holding
                .changed_at(&key)
                .is_some_and(|at| now.0.saturating_sub(at.0) >= SETTLED_MS || is_of_another_clock(at, now));
            let lasts = holding.expires_at(&key).is_some_and(|at| at.0 > now.0 + LEFT_MS);
            if !settled || !lasts {
                continue;
            }
            if let Some(to) = self.target(&change.what, &key, region) {
                self.passed += 1;
                pushes.push((key, to));
            }
        }
        keys.is_empty()
    }

    /// Who gets `key` because of a change, if this node is to pass it on.
    fn target(&self, what: &What, key: &RecordKey, region: &[(NodeKey, Position)]) -> Option<Arc<Card>> {
        let at = Position::of_key(key);
        let mut members: Vec<_> = region.iter().map(|(node, position)| (position.distance(&at), *node)).collect();
        if members.len() > REGION {
            members.select_nth_unstable(REGION);
            members.truncate(REGION);
        }
        let newcomer = match what {
            What::Came(card) => members.iter().find(|(_, node)| *node == card.node)?.1,
            What::Gone(position) => {
                let last = members.iter().max()?;
                // It was no member, or nobody moves up.
                if position.distance(&at) > last.0 || members.len() < REGION {
                    return None;
                }
                last.1
            }
        };
        let order = |node: &NodeKey| -> [u8; 32] {
            Sha256::new().chain_update(key.0).chain_update(newcomer.0).chain_update(node.0).finalize().into()
        };
        let here = order(&self.here);
        let holders = members.iter().map(|(_, node)| node).filter(|node| **node != newcomer);
        let mut before = 0;
        let mut member = false;
        for node in holders {
            member |= *node == self.here;
            before += usize::from(order(node) < here);
        }
        (member && before < PUSHERS).then(|| self.known.get(&newcomer).cloned()).flatten()
    }
}
