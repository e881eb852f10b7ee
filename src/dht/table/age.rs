//! How old an acquaintance is. Seniority is the best signal there is against keys made by the thousand, so neither a
//! clock that was wrong for an hour nor a key that was sold may make anybody old.

use super::Table;
use super::bucket::{Entry, find, insert};
use crate::clock::UnixMillis;
use crate::dht::Network;

/// A clock that moves by more between two calls was set, milliseconds. A node that slept for longer loses as much of the
/// seniority of those whom it met since its start, all of them alike.
const SET_MS: u64 = 86_400_000;

/// What the wall clock said at the first call and at the last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock(Option<(UnixMillis, UnixMillis)>);

impl Table {
    /// Takes note of the time. When the clock was set, whoever was met by the old clock was met as much earlier or later:
    /// a node that begins in 1970 and learns the time later would take its first acquaintances for the oldest for ever.
    /// Those of earlier sessions keep their dates.
    pub(super) fn tick(&mut self, now: UnixMillis) {
        let Some((since, last)) = self.clock.0 else {
            self.clock = Clock(Some((now, now)));
            return;
        };
        let shift = |at: UnixMillis| UnixMillis(at.0.saturating_add(now.0).saturating_sub(last.0));
        if now.0.abs_diff(last.0) < SET_MS {
            self.clock = Clock(Some((since.min(now), now)));
            return;
        }
        for bucket in &mut self.buckets {
            for list in [&mut bucket.members, &mut bucket.waiting] {
                for entry in list.iter_mut().filter(|entry| (since..=last).contains(&entry.first_seen)) {
                    entry.first_seen = shift(entry.first_seen);
                }
                list.sort_by_key(|entry| entry.first_seen);
            }
        }
        self.clock = Clock(Some((shift(since), now)));
    }

    /// The peer answered from another network than before: a key that was sold, stolen, or moved. It keeps its place, but
    /// as a newcomer, and by what its new network is worth.
    pub(super) fn moved(&mut self, index: usize, position: &super::Position, to: Network, now: UnixMillis) {
        let bucket = &mut self.buckets[index];
        if let Some(entry) = find(&mut bucket.waiting, position) {
            (entry.network, entry.first_seen) = (to, now);
            bucket.waiting.sort_by_key(|entry| entry.first_seen);
            return;
        }
        let Some(at) = bucket.members.iter().position(|entry| entry.is(position)) else { return };
        let mut entry = bucket.members.remove(at);
        self.len -= 1;
        (entry.network, entry.first_seen) = (to, now);
        entry.standing = self.standing(index, &entry);
        insert(&mut self.buckets[index].members, entry);
        self.len += 1;
        self.measure();
    }
}

impl Entry {
    /// Where it counts when it answers from `network`: `Some` where that is another one than before. Who has both IPv4 and
    /// IPv6 and still says so has not moved by being met at the other: it stays what its IPv4 address says.
    pub(super) fn moves_to(&self, network: Network, says: &[crate::reachability::Address]) -> Option<Network> {
        if self.network.wide == network.wide {
            return None;
        }
        let both = network.is_v6() && !self.network.is_v6();
        let still = says.iter().any(|address| Network::of(address.ip).wide == self.network.wide);
        (!(both && still)).then_some(network)
    }
}
