//! Whom a table names: to others who ask, and to walks of our own (SECURITY §4.4).

use super::Table;
use super::bucket::{Entry, Standing, head, seconds};
use crate::clock::UnixMillis;
use crate::dht::walk::Seeds;
use crate::dht::{Caps, Card, Distance, Diversity, MAX_PEERS, Position, REACH};
use crate::identity::NodeKey;
use std::sync::Arc;

/// Peers are named whose liveness this node has verified within this time, seconds (SECURITY §4.3).
const LIVE: u32 = 24 * 3600;

/// Half of an answer.
const HALF: usize = MAX_PEERS / 2;

/// Of these, oldest acquaintances where the overlay is so small that everybody is in the region.
const OLDEST_OF_FEW: usize = 4;

/// Where a walk begins.
const NEAR: usize = 40;
const RANDOM: usize = 16;

/// Nearest peers that are looked at for distinct networks before all others are.
const FIRST_LOOK: usize = 3 * NEAR;

/// How diverse the peers are that a walk begins with.
const SEEDS: Caps = Caps { subnet: 2, wide: 4, system: 8 };

/// Chooses up to `most` of `from` in order: those within `caps` first; with `fill`, the others after them.
fn choose<'a>(
    from: &[&'a Entry],
    most: usize,
    caps: &Caps,
    fill: bool,
    taken: &mut Vec<&'a Entry>,
    counts: &mut Diversity,
) -> bool {
    let start = taken.len();
    let mut left = Vec::new();
    for entry in from {
        if taken.len() - start == most {
            return false;
        }
        if taken[..start].iter().any(|other| std::ptr::eq(*other, *entry)) {
            continue;
        }
        if counts.admit(&entry.network, caps) {
            taken.push(entry);
        } else {
            left.push(*entry);
        }
    }
    let missing = most - (taken.len() - start);
    if fill {
        taken.extend(left.iter().take(missing));
    }
    missing > 0
}

/// Orders by distance to `target`, the nearest first; only the first `most` for certain.
fn nearest<'a>(entries: impl Iterator<Item = &'a Entry>, target: &Position, most: usize) -> Vec<&'a Entry> {
    let at = head(target);
    let mut sorted: Vec<(u64, &Entry)> = entries.map(|entry| (entry.head ^ at, entry)).collect();
    let order = |a: &(u64, &Entry), b: &(u64, &Entry)| {
        a.0.cmp(&b.0).then_with(|| a.1.card.position.distance(target).cmp(&b.1.card.position.distance(target)))
    };
    if sorted.len() > most {
        sorted.select_nth_unstable_by(most, order);
        sorted[..most].sort_unstable_by(order);
    } else {
        sorted.sort_unstable_by(order);
    }
    sorted.into_iter().map(|(_, entry)| entry).collect()
}

/// A repeatable order that differs with the salt (SplitMix64).
pub(super) fn shuffled(value: u64, salt: u64) -> u64 {
    let mut z = (value ^ salt).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Table {
    /// The answer to FIND and FETCH, at most [`MAX_PEERS`], without doubles: the ten nearest to the target, of different
    /// /24s, then up to ten of the region around it, oldest acquaintances first, of /24s not named yet. Only where the
    /// whole table has too few networks to fill the first half is it filled up, both halves, with others of the same.
    /// Peers that did not answer this node within 24 hours, or failed since, are not named.
    pub fn answer(&self, target: &Position, now: UnixMillis) -> Vec<Arc<Card>> {
        let clock = seconds(now);
        let live: Vec<&Entry> = self.entries().filter(|entry| entry.is_live(clock, LIVE)).collect();
        let near = nearest(live.iter().copied(), target, FIRST_LOOK);
        let (mut taken, mut counts) = (Vec::with_capacity(MAX_PEERS), Diversity::default());
        let mut few = choose(&near[..near.len().min(FIRST_LOOK)], HALF, &Caps::ANSWER, false, &mut taken, &mut counts);
        if few {
            (taken, counts) = (Vec::with_capacity(MAX_PEERS), Diversity::default());
            few = choose(
                &nearest(live.iter().copied(), target, live.len()),
                HALF,
                &Caps::ANSWER,
                true,
                &mut taken,
                &mut counts,
            );
        }
        let around = Distance::of_fraction(REACH * self.estimate().region());
        let at = head(target);
        let limit = around.0.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
        let mut region: Vec<&Entry> = live.into_iter().filter(|entry| entry.head ^ at <= limit).collect();
        region.sort_by_key(|entry| (entry.first_seen, entry.head ^ at));
        if self.estimate().region() * REACH >= 0.5 {
            // Everybody is of the region, and the oldest alone would be all that anybody ever hears of. The others of
            // each table and for each target, so that a few answers together name all.
            let oldest = region.len().min(OLDEST_OF_FEW);
            region[oldest..].sort_by_key(|entry| shuffled(entry.head, self.head ^ at));
        }
        choose(&region, HALF, &Caps::ANSWER, few, &mut taken, &mut counts);
        taken.into_iter().map(|entry| entry.card.clone()).collect()
    }

    /// Where a walk of our own begins: 40 nearest and 16 others, of different networks first; whom a probe has just
    /// missed and whom the ledger shuns come last. The same salt gives the same choice.
    pub fn seeds(&self, target: &Position, salt: u64, shunned: &dyn Fn(&NodeKey) -> bool) -> Seeds {
        let doubtful = |entry: &Entry| entry.failures > 0 || shunned(&entry.card.node);
        let near = nearest(self.entries(), target, usize::MAX);
        let mut taken = Vec::with_capacity(NEAR + RANDOM);
        let (good, doubted): (Vec<&Entry>, Vec<&Entry>) = near.into_iter().partition(|entry| !doubtful(entry));
        // Visitors and crowds only where there are too few others.
        let (mut good, crowd): (Vec<&Entry>, Vec<&Entry>) =
            good.into_iter().partition(|entry| entry.standing != Standing::Crowd);
        good.extend(crowd);
        choose(&good, NEAR, &SEEDS, true, &mut taken, &mut Diversity::default());
        let near = taken.len();
        let mut others = good;
        others.sort_by_key(|entry| (entry.standing == Standing::Crowd, shuffled(entry.head, salt)));
        choose(&others, RANDOM, &SEEDS, true, &mut taken, &mut Diversity::default());
        let missing = (NEAR + RANDOM).saturating_sub(taken.len());
        taken.extend(doubted.into_iter().take(missing));
        taken[..near].sort_by_key(|entry| entry.head ^ head(target));
        let mut cards = taken.into_iter().map(|entry| entry.card.clone());
        Seeds { near: cards.by_ref().take(near).collect(), random: cards.collect() }
    }
}
