//! Whom a server knows. Tables are built when somebody asks for them and kept, as building one costs more than asking.
//!
//! A table is what long life in the overlay makes of it: of each distance a random choice of those there, offered in
//! random order to the product's own admission, and everybody of the neighbourhood. Dead servers are offered too.

use super::rng::Rng;
use super::sorted::Sorted;
use super::world::{Kind, NOW, Node, World, id_of, ip_of};
use peerline::dht::Table;
use std::rc::Rc;

/// Offered to a table at each distance; it keeps 20 of them.
const OFFERED: usize = 40;
/// Peers in a bucket of libp2p-kad.
const BUCKET: usize = 20;
/// Tables kept at most: some 40 KB each.
const KEPT: usize = 60_000;

/// Everybody who could be known.
pub struct Members<'a> {
    pub world: &'a World,
    pub extra: &'a [Node],
    pub extra_order: &'a Sorted,
    pub bias: f64,
}

#[derive(Default)]
pub struct Known {
    /// By id.
    tables: Vec<Option<Rc<Table>>>,
    built: usize,
    contacts: Vec<Option<Rc<[u32]>>>,
}

impl Known {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn table(&mut self, id: u32, members: &Members<'_>) -> Rc<Table> {
        if self.built >= KEPT {
            self.clear();
        }
        self.tables.resize(self.tables.len().max(members.world.nodes.len()), None);
        let built = &mut self.built;
        let table = self.tables[id as usize].get_or_insert_with(|| {
            *built += 1;
            Rc::new(members.table(id))
        });
        table.clone()
    }

    /// Replaces the table of a server; the one that it had.
    pub fn put(&mut self, id: u32, table: Option<Rc<Table>>) -> Option<Rc<Table>> {
        self.tables.resize(self.tables.len().max(id as usize + 1), None);
        std::mem::replace(&mut self.tables[id as usize], table)
    }

    pub fn contacts(&mut self, id: u32, members: &Members<'_>) -> Rc<[u32]> {
        self.contacts.resize(self.contacts.len().max(members.world.nodes.len()), None);
        self.contacts[id as usize].get_or_insert_with(|| members.contacts(id).into()).clone()
    }
}

impl Members<'_> {
    /// By distance, farthest first: a choice in random order.
    fn choice(&self, id: u32, offered: usize, complete: usize) -> Vec<Vec<&Node>> {
        let mut rng = Rng::of(&[self.world.seed, 20, u64::from(id)]);
        let point = self.world.order.head(id as usize);
        let mut buckets = Vec::new();
        for bits in 0..64 {
            if self.world.order.with_prefix(point, bits).len() + self.extra_order.with_prefix(point, bits).len() <= 1 {
                break;
            }
            let (base, extra) = (self.world.order.bucket(point, bits), self.extra_order.bucket(point, bits));
            let all = base.len() + extra.len();
            let at = |i: usize| {
                if i < base.len() {
                    &self.world.nodes[base.start + i]
                } else {
                    &self.extra[extra.start + i - base.len()]
                }
            };
            let mut chosen: Vec<&Node> = if all <= complete {
                (0..all).map(at).collect()
            } else {
                let mut taken = std::collections::HashSet::new();
                let mut tries = 0;
                while taken.len() < offered && tries < 20 * offered {
                    tries += 1;
                    let i = rng.below(all);
                    if at(i).kind == Kind::Hostile || rng.unit() * self.bias < 1.0 {
                        taken.insert(i);
                    }
                }
                let mut taken: Vec<usize> = taken.into_iter().collect();
                taken.sort_unstable();
                taken.into_iter().map(at).collect()
            };
            rng.shuffle(&mut chosen);
            // Who came lately found the others there.
            chosen.sort_by_key(|node| node.since.0 > NOW.0 - 86_400_000);
            buckets.push(chosen);
        }
        buckets
    }

    fn table(&self, id: u32) -> Table {
        let mut table = Table::new(self.world.nodes[id as usize].card.position);
        for node in self.choice(id, OFFERED, self.world.plan.complete).into_iter().flatten() {
            table.restored(node.card.clone(), ip_of(&node.card), node.since, NOW);
        }
        table
    }

    /// Full buckets keep whom they have.
    fn contacts(&self, id: u32) -> Vec<u32> {
        let choice = self.choice(id, BUCKET, self.world.plan.complete);
        choice.into_iter().flat_map(|bucket| bucket.into_iter().take(BUCKET)).map(|n| id_of(&n.card.node)).collect()
    }
}

/// The nearest of `contacts`, nearest first.
pub fn nearest_of(contacts: &[u32], most: usize, distance: impl Fn(u32) -> u64) -> Vec<u32> {
    let mut near: Vec<(u64, u32)> = contacts.iter().map(|id| (distance(*id), *id)).collect();
    if near.len() > most {
        near.select_nth_unstable(most);
        near.truncate(most);
    }
    near.sort_unstable();
    near.into_iter().map(|(_, id)| id).collect()
}
