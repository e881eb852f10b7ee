//! What was found a moment ago. Pure: time is passed in; what is kept is the caller's affair.

use crate::uri::IdHash;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How old an answer may be that is dialled without a new lookup: breaks a storm of redials. Not longer, or who lost a
/// call because the other moved to another network would be led to the old place.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// How long "not online" is believed: long enough to break a storm of redials, too short to be noticed.
pub(super) const MISSED: Duration = Duration::from_secs(2);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cached<'a, V> {
    /// Dial it.
    Fresh(&'a V),
    /// Dial it, and look it up too.
    Old(&'a V),
    /// Looked up a moment ago in vain.
    Missed,
    Unknown,
}

enum Held<V> {
    Found(V),
    Missed,
}

/// The least recently used goes first when it is full.
pub(super) struct Cache<V> {
    most: usize,
    turn: u64,
    entries: HashMap<IdHash, (Held<V>, Instant, u64)>,
    by_turn: BTreeMap<u64, IdHash>,
}

impl<V> Cache<V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, turn: 0, entries: HashMap::new(), by_turn: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, who: &IdHash, now: Instant) -> Cached<'_, V> {
        let Some((held, since, turn)) = self.entries.get_mut(who) else { return Cached::Unknown };
        self.by_turn.remove(turn);
        self.turn += 1;
        *turn = self.turn;
        self.by_turn.insert(self.turn, *who);
        let age = now.saturating_duration_since(*since);
        match held {
            Held::Found(value) => {
                if age <= FRESH {
                    Cached::Fresh(value)
                } else {
                    Cached::Old(value)
                }
            }
            Held::Missed if age <= MISSED => Cached::Missed,
            Held::Missed => Cached::Unknown,
        }
    }

    pub(super) fn found(&mut self, who: IdHash, value: V, now: Instant) {
        self.put(who, Held::Found(value), now);
    }

    /// Looked up in vain; what was held before is gone.
    pub(super) fn missed(&mut self, who: IdHash, now: Instant) {
        self.put(who, Held::Missed, now);
    }

    pub(super) fn forget(&mut self, who: &IdHash) {
        if let Some((_, _, turn)) = self.entries.remove(who) {
            self.by_turn.remove(&turn);
        }
    }

    fn put(&mut self, who: IdHash, held: Held<V>, now: Instant) {
        self.forget(&who);
        while self.entries.len() >= self.most {
            let Some((_, oldest)) = self.by_turn.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        self.turn += 1;
        self.entries.insert(who, (held, now, self.turn));
        self.by_turn.insert(self.turn, who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IdHash = IdHash([1; 22]);
    const B: IdHash = IdHash([2; 22]);
    const C: IdHash = IdHash([3; 22]);

    #[test]
    fn ages_and_forgets() {
        let (mut cache, now) = (Cache::new(8), Instant::now());
        assert_eq!(cache.get(&A, now), Cached::Unknown);
        cache.found(A, 1, now);
        assert_eq!(cache.get(&A, now + FRESH), Cached::Fresh(&1));
        assert_eq!(cache.get(&A, now + FRESH * 2), Cached::Old(&1));
        cache.missed(A, now);
        assert_eq!(cache.get(&A, now + MISSED), Cached::Missed);
        assert_eq!(cache.get(&A, now + MISSED * 2), Cached::Unknown);
        cache.found(A, 2, now);
        cache.forget(&A);
        assert_eq!(cache.get(&A, now), Cached::Unknown);
    }

    #[test]
    fn drops_the_least_recently_used() {
        let (mut cache, now) = (Cache::new(2), Instant::now());
        cache.found(A, 1, now);
        cache.found(B, 2, now);
        cache.get(&A, now);
        cache.found(C, 3, now);
        assert_eq!(cache.get(&B, now), Cached::Unknown);
        assert_eq!(cache.get(&A, now), Cached::Fresh(&1));
        assert_eq!((cache.entries.len(), cache.by_turn.len()), (2, 2));
    }
}
