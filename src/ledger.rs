//! What this node itself saw others do: counted facts, bounded, fading with time (SECURITY §4.8). No opinions of
//! others, no scores that travel. Pure; peers are keys of any kind.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Peers remembered at most. A fact is 64 bytes: 256 KiB.
const MAX_PEERS: usize = 4096;

/// Bad facts lose half of their weight in this time, good ones too.
const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Bad weight from which a peer is not listened to.
const SHUNNED: f64 = 100.0;

/// Something seen, that nobody else's word is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// A useful, verified answer or record.
    Useful,
    /// Bytes with a signature that does not verify, a certificate that does not hold, or for another key: nobody sends
    /// these by accident.
    Forged,
    /// Bytes that are refused for a reason that honest but broken or outdated software may have.
    Refused,
    /// Bytes that were good once, or are by another clock: happens to the honest, but not a thousand times a day.
    Late,
    /// More than its share.
    Flood,
}

impl Fact {
    fn weight(self) -> (f64, f64) {
        match self {
            Fact::Useful => (1.0, 0.0),
            Fact::Forged => (0.0, 10.0),
            Fact::Refused => (0.0, 1.0),
            Fact::Late | Fact::Flood => (0.0, 0.1),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Account {
    good: f64,
    bad: f64,
    at: Instant,
}

impl Account {
    fn faded(self, now: Instant) -> Self {
        let halves = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        let factor = 0.5_f64.powf(halves);
        Self { good: self.good * factor, bad: self.bad * factor, at: now }
    }
}

/// The accounts.
#[derive(Debug)]
pub struct Ledger<P> {
    accounts: HashMap<P, Account>,
}

impl<P> Default for Ledger<P> {
    fn default() -> Self {
        Self { accounts: HashMap::new() }
    }
}

impl<P: Hash + Eq + Copy> Ledger<P> {
    pub fn note(&mut self, peer: P, fact: Fact, now: Instant) {
        if self.accounts.len() >= MAX_PEERS && !self.accounts.contains_key(&peer) {
            self.forget_least(now);
        }
        let (good, bad) = fact.weight();
        let account = self.accounts.entry(peer).or_insert(Account { good: 0.0, bad: 0.0, at: now });
        *account = account.faded(now);
        account.good = (account.good + good).min(1_000.0);
        account.bad = (account.bad + bad).min(1_000.0);
    }

    /// Whether what this peer sends is not worth looking at.
    pub fn shuns(&self, peer: &P, now: Instant) -> bool {
        self.accounts.get(peer).is_some_and(|account| account.faded(now).bad >= SHUNNED)
    }

    /// Good and bad weight now.
    pub fn of(&self, peer: &P, now: Instant) -> (f64, f64) {
        self.accounts.get(peer).map_or((0.0, 0.0), |account| {
            let account = account.faded(now);
            (account.good, account.bad)
        })
    }

    /// Makes room: the quarter that says least goes, so that a stranger with many names cannot wash out the record of
    /// the worst.
    fn forget_least(&mut self, now: Instant) {
        let mut weights: Vec<f64> = self.accounts.values().map(|a| weight(a.faded(now))).collect();
        weights.sort_by(f64::total_cmp);
        let limit = weights.get(weights.len() / 4).copied().unwrap_or_default();
        let mut room = MAX_PEERS / 4;
        self.accounts.retain(|_, account| {
            let keep = room == 0 || weight(account.faded(now)) > limit;
            room -= usize::from(!keep);
            keep
        });
    }
}

fn weight(account: Account) -> f64 {
    account.good + account.bad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuns_a_forger_and_forgives_in_time() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        for _ in 0..10 {
            assert!(!ledger.shuns(&1, now));
            ledger.note(1, Fact::Forged, now);
        }
        assert!(ledger.shuns(&1, now));
        assert!(!ledger.shuns(&2, now));
        assert!(!ledger.shuns(&1, now + HALF_LIFE));
    }

    #[test]
    fn refusals_alone_take_a_hundred() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        for _ in 0..99 {
            ledger.note(1, Fact::Refused, now);
        }
        assert!(!ledger.shuns(&1, now));
        ledger.note(1, Fact::Useful, now);
        assert_eq!(ledger.of(&1, now), (1.0, 99.0));
    }

    #[test]
    fn is_bounded_and_keeps_the_worst() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        for _ in 0..10 {
            ledger.note(u32::MAX, Fact::Forged, now);
        }
        for peer in 0..20_000_u32 {
            ledger.note(peer, Fact::Refused, now);
        }
        assert!(ledger.accounts.len() <= MAX_PEERS);
        assert!(ledger.shuns(&u32::MAX, now));
    }
}
