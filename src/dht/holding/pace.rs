//! How often something may happen: one number for each source, which is when it has used up what it may (GCRA). Wall
//! clock, because what is paced outlives a run; a clock that goes back forgives rather than locks out.

use crate::clock::UnixMillis;
use std::collections::HashMap;
use std::hash::Hash;

/// One in `every_ms`, and `burst` at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    pub every_ms: u64,
    pub burst: u64,
}

/// Of one source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace(u64);

impl Pace {
    fn used_up_to(self, rhythm: Rhythm, now: UnixMillis) -> u64 {
        let sane = self.0 <= now.0.saturating_add(rhythm.every_ms.saturating_mul(rhythm.burst));
        if sane { self.0.max(now.0) } else { now.0 }
    }

    /// Whether one more may happen now.
    pub fn allows(self, rhythm: Rhythm, now: UnixMillis) -> bool {
        self.used_up_to(rhythm, now) - now.0 <= rhythm.every_ms.saturating_mul(rhythm.burst.saturating_sub(1))
    }

    /// It happened.
    pub fn count(&mut self, rhythm: Rhythm, now: UnixMillis) {
        self.0 = self.used_up_to(rhythm, now).saturating_add(rhythm.every_ms);
    }
}

/// Of many sources, at most `max`; who does not fit shares one.
#[derive(Debug)]
pub(super) struct Paces<K> {
    rhythm: Rhythm,
    max: usize,
    of: HashMap<K, Pace>,
    shared: Pace,
}

impl<K: Hash + Eq + Copy> Paces<K> {
    pub fn new(rhythm: Rhythm, max: usize) -> Self {
        Self { rhythm, max, of: HashMap::new(), shared: Pace::default() }
    }

    pub fn allows(&self, source: &K, now: UnixMillis) -> bool {
        match self.of.get(source) {
            Some(pace) => pace.allows(self.rhythm, now),
            None => self.of.len() < self.max || self.shared.allows(self.rhythm, now),
        }
    }

    pub fn count(&mut self, source: K, now: UnixMillis) {
        if self.of.len() >= self.max && !self.of.contains_key(&source) {
            let rhythm = self.rhythm;
            self.of.retain(|_, pace| pace.used_up_to(rhythm, now) > now.0);
            if self.of.len() >= self.max {
                return self.shared.count(rhythm, now);
            }
        }
        self.of.entry(source).or_default().count(self.rhythm, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_burst_and_then_the_rhythm_also_when_the_clock_jumps() {
        let rhythm = Rhythm { every_ms: 30_000, burst: 5 };
        let mut pace = Pace::default();
        let mut happened = |at: u64| {
            let at = UnixMillis(at);
            let allowed = pace.allows(rhythm, at);
            if allowed {
                pace.count(rhythm, at);
            }
            allowed
        };
        assert_eq!((0..10).filter(|_| happened(NOW.0)).count(), 5);
        assert!(!happened(NOW.0 + 29_999));
        assert!(happened(NOW.0 + 30_000));
        assert!(!happened(NOW.0 + 30_001));
        assert!(happened(NOW.0 - 86_400_000), "a clock that went back");
    }

    #[test]
    fn sources_are_bounded() {
        let mut paces = Paces::new(Rhythm { every_ms: 1_000, burst: 1 }, 10);
        for source in 0..1_000 {
            if paces.allows(&source, NOW) {
                paces.count(source, NOW);
            }
        }
        assert_eq!(paces.of.len(), 10);
        assert!(!paces.allows(&2_000, NOW));
        let later = UnixMillis(NOW.0 + 5_000);
        assert!(paces.allows(&2_000, later));
        paces.count(2_000, later);
        assert_eq!(paces.of.len(), 1);
    }
}
