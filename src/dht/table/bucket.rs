//! One bucket: who is in, oldest first, and who waits for a place.

use super::super::{Card, Network, Position};
use crate::clock::UnixMillis;
use std::sync::Arc;

/// Peers of a bucket that are promised their place: nobody alive among the first so many ever gives way.
pub(super) const K: usize = 20;

/// Candidates that wait for a place in a bucket.
pub(super) const WAITING: usize = 16;

/// How an entry stands in the counts of networks when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Within all caps: its place is its own.
    Diverse,
    /// Over a cap: gives way to a diverse newcomer.
    Surplus,
    /// Over even the caps of the whole table, or it came to us rather than we to it: no voice in the estimate, unless
    /// nearly everybody stands so.
    Crowd,
}

/// A peer. 64 bytes beside its card, which the whole program shares.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) card: Arc<Card>,
    /// First 64 bits of its position.
    pub(super) head: u64,
    /// Of the address at which it answered.
    pub(super) network: Network,
    pub(super) first_seen: UnixMillis,
    /// Last correct answer, last try, last failure that counted; seconds since 1970, 0 for never.
    pub(super) verified_at: u32,
    pub(super) tried_at: u32,
    pub(super) failed_at: u32,
    pub(super) failures: u8,
    pub(super) standing: Standing,
    /// Met only because it dialled us first.
    pub(super) inbound: bool,
}

pub(super) fn seconds(at: UnixMillis) -> u32 {
    u32::try_from(at.seconds()).unwrap_or(u32::MAX)
}

/// First 64 bits of a position: enough to order peers by; ties are told apart by the rest.
pub(super) fn head(position: &Position) -> u64 {
    position.0.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
}

impl Entry {
    pub(super) fn is(&self, position: &Position) -> bool {
        self.head == head(position) && self.card.position == *position
    }

    /// It answered within `age` seconds and has not failed since. A clock that was ahead for a while is no liveness.
    pub(super) fn is_live(&self, now: u32, age: u32) -> bool {
        self.failures == 0 && now.abs_diff(self.verified_at) <= age
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Bucket {
    /// By `first_seen`, oldest first.
    pub(super) members: Vec<Entry>,
    /// By `first_seen` too.
    pub(super) waiting: Vec<Entry>,
    /// Somebody who counts was turned away: the bucket does not know everybody of its part of the space.
    pub(super) overflown: bool,
}

/// Adds by age.
pub(super) fn insert(list: &mut Vec<Entry>, entry: Entry) {
    let at = list.partition_point(|other| other.first_seen <= entry.first_seen);
    list.insert(at, entry);
}

pub(super) fn find<'a>(list: &'a mut [Entry], position: &Position) -> Option<&'a mut Entry> {
    list.iter_mut().find(|entry| entry.is(position))
}

impl Bucket {
    /// The newest member over a cap.
    pub(super) fn newest_surplus(&self) -> Option<usize> {
        self.members.iter().rposition(|entry| entry.standing != Standing::Diverse)
    }

    /// Keeps a candidate in mind: an early one of a network that does not wait yet, rather than a late one more of the
    /// same. Whether it is kept.
    pub(super) fn keep_waiting(&mut self, entry: Entry) -> bool {
        let same = |other: &&Entry| other.network.wide == entry.network.wide;
        if self.waiting.len() < WAITING {
            insert(&mut self.waiting, entry);
            return true;
        }
        let mine = self.waiting.iter().filter(same).count();
        // The newest of the network that waits most often gives way, if the newcomer's waits less often.
        let crowd = |network: u64| self.waiting.iter().filter(|other| other.network.wide == network).count();
        let most = self.waiting.iter().map(|other| crowd(other.network.wide)).max().unwrap_or(0);
        if most <= mine + 1 {
            return false;
        }
        if let Some(at) = self.waiting.iter().rposition(|other| crowd(other.network.wide) == most) {
            self.waiting.remove(at);
        }
        insert(&mut self.waiting, entry);
        true
    }

    /// The candidate for a free place: who has not failed, of the rarest network, the oldest.
    pub(super) fn take_candidate(&mut self) -> Option<Entry> {
        let rarity = |entry: &Entry| self.members.iter().filter(|m| m.network.wide == entry.network.wide).count();
        let best = (0..self.waiting.len())
            .filter(|at| self.waiting[*at].failures == 0)
            .min_by_key(|at| (rarity(&self.waiting[*at]), self.waiting[*at].first_seen))?;
        Some(self.waiting.remove(best))
    }
}
