//! What this node itself saw others do: counted facts, bounded, fading with time (SECURITY §4.8). No opinions of
//! others and no scores that travel, so there is nobody to slander by telling. Pure; peers are keys of any kind.
//!
//! Three sums for each peer: *good*, *slow* and *bad*. Good and slow halve in a day: a peer that was away yesterday is
//! there today. Bad halves in a week, and only what cannot happen to the honest makes enough of it to be shunned: who
//! is silent, even always, is asked last, and nothing more. A newcomer has nothing, which is not better than anybody.
//!
//! A quarter of what is bad counts on the peer's network too, because peer ids are free. It takes a network's other
//! peers halfway to being shunned at most: one liar among the tenants of a data centre must not shut out the rest.

mod row;

pub use row::MAX_ROW_BYTES;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Peers remembered at most. An account is some 100 bytes: 400 KiB.
const MAX_PEERS: usize = 4_096;

/// Networks with bad facts remembered at most.
const MAX_NETWORKS: usize = 1_024;

/// Accounts that wait to be written at most; others are written when they change again.
const MAX_CHANGED: usize = 2 * MAX_PEERS;

/// What halves the sums.
const GOOD_HALF_LIFE: Duration = Duration::from_secs(24 * 3_600);
const BAD_HALF_LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Bad weight from which a peer is not listened to: ten forgeries.
const SHUNNED: f64 = 100.0;

/// Sums end here. Of bad this is three and a third half-lives above [`SHUNNED`]: nobody is shunned for longer than 23
/// days after the last fact.
const MOST: f64 = 1_000.0;

/// What a proof weighs: 4.3 half-lives, which are 30 days.
const PROVEN: f64 = 2_000.0;

/// Good ends earlier: who was good for a year and turns is as quickly known for it as who was good for an hour.
const MOST_GOOD: f64 = 50.0;

/// Of what is bad, what counts on the network; and how much of that counts on each of its peers at most.
const NETWORK_PART: f64 = 0.25;
const MOST_OF_NETWORK: f64 = SHUNNED / 2.0;

/// So much more slow than good, and others are asked first.
const TOO_SLOW: f64 = 3.0;

/// Something seen, that nobody else's word is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// A useful, verified answer or record.
    Useful,
    /// Bytes with a signature that does not verify, a certificate that does not hold, or for another key: nobody sends
    /// these by accident.
    Forged,
    /// Not there any more what it gave a signed receipt for, within its promise, or older.
    Broken,
    /// The same, proven by its own signatures (`dht::Evidence`).
    Proven,
    /// Many of the peers that it named are not there.
    Ghosts,
    /// Bytes that are refused for a reason that honest but broken or outdated software may have.
    Refused,
    /// Bytes that were good once, or are by another clock: happens to the honest, but not a thousand times a day.
    Late,
    /// More than its share.
    Flood,
    /// No answer.
    Silent,
}

/// Weights of a fact, or what a peer has of each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    pub good: f64,
    pub slow: f64,
    pub bad: f64,
}

impl Fact {
    fn weight(self) -> Sums {
        let (good, slow, bad) = match self {
            Fact::Useful => (1.0, 0.0, 0.0),
            Fact::Forged | Fact::Broken => (0.0, 0.0, 10.0),
            Fact::Proven => (0.0, 0.0, PROVEN),
            Fact::Ghosts => (0.0, 3.0, 3.0),
            Fact::Refused => (0.0, 0.0, 1.0),
            Fact::Late | Fact::Flood => (0.0, 0.0, 0.1),
            Fact::Silent => (0.0, 1.0, 0.0),
        };
        Sums { good, slow, bad }
    }
}

impl Sums {
    fn faded(self, passed: Duration) -> Self {
        let factor = |half: Duration| 0.5_f64.powf(passed.as_secs_f64() / half.as_secs_f64());
        let (day, week) = (factor(GOOD_HALF_LIFE), factor(BAD_HALF_LIFE));
        Self { good: self.good * day, slow: self.slow * day, bad: self.bad * week }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            good: (self.good + other.good).min(MOST_GOOD),
            slow: (self.slow + other.slow).min(MOST),
            // A proof weighs more, and what comes after it takes nothing from it.
            bad: (self.bad + other.bad).min(MOST.max(self.bad).max(other.bad)),
        }
    }

    fn total(self) -> f64 {
        self.good + self.slow + self.bad
    }
}

#[derive(Clone, Copy, Debug)]
struct Account {
    sums: Sums,
    at: Instant,
    /// Where it was met last.
    network: Option<u64>,
}

impl Account {
    fn new(now: Instant) -> Self {
        Self { sums: Sums::default(), at: now, network: None }
    }

    fn now(&self, now: Instant) -> Sums {
        self.sums.faded(now.saturating_duration_since(self.at))
    }

    fn add(&mut self, sums: Sums, now: Instant) {
        (self.sums, self.at) = (self.now(now).plus(sums), now);
    }
}

/// The accounts.
#[derive(Debug)]
pub struct Ledger<P> {
    accounts: HashMap<P, Account>,
    networks: HashMap<u64, Account>,
    /// Changed since [`Ledger::take_changes`].
    changed: HashSet<P>,
}

impl<P> Default for Ledger<P> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), networks: HashMap::new(), changed: HashSet::new() }
    }
}

impl<P: Hash + Eq + Copy> Ledger<P> {
    /// Counts a fact.
    pub fn note(&mut self, peer: P, fact: Fact, now: Instant) {
        let weight = fact.weight();
        let account = self.account(peer, now);
        account.add(weight, now);
        let network = account.network;
        if self.changed.len() < MAX_CHANGED {
            self.changed.insert(peer);
        }
        if let Some(network) = network.filter(|_| weight.bad > 0.0) {
            self.note_network(network, (weight.bad * NETWORK_PART).min(MOST_OF_NETWORK), now);
        }
    }

    /// A peer of which something is known was met at an address of `network` (a /24 or /48 in any numbering); `None`
    /// where addresses say nothing.
    pub fn met(&mut self, peer: P, network: Option<u64>, now: Instant) {
        if network.is_some() {
            self.account(peer, now).network = network;
        }
    }

    /// Whether what this peer sends is not worth looking at.
    pub fn shuns(&self, peer: &P, now: Instant) -> bool {
        self.accounts.get(peer).is_some_and(|account| self.bad(account, now) >= SHUNNED)
    }

    /// Whether others are asked first: shunned, or more often silent than not.
    pub fn avoids(&self, peer: &P, now: Instant) -> bool {
        self.accounts.get(peer).is_some_and(|account| {
            let sums = account.now(now);
            self.bad(account, now) >= SHUNNED || sums.slow > sums.good + TOO_SLOW
        })
    }

    /// What is known of a peer now; nothing of those never met.
    pub fn of(&self, peer: &P, now: Instant) -> Sums {
        self.accounts.get(peer).map_or(Sums::default(), |account| account.now(now))
    }

    /// Where a peer was met last.
    pub fn network_of(&self, peer: &P) -> Option<u64> {
        self.accounts.get(peer)?.network
    }

    /// Everybody of whom anything is known, with what.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&P, Sums)> {
        self.accounts.iter().map(move |(peer, account)| (peer, account.now(now)))
    }

    /// Peers remembered.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    fn bad(&self, account: &Account, now: Instant) -> f64 {
        let own = account.now(now).bad;
        let network = account.network.and_then(|network| self.networks.get(&network));
        own + network.map_or(0.0, |network| network.now(now).bad.min(MOST_OF_NETWORK))
    }

    fn account(&mut self, peer: P, now: Instant) -> &mut Account {
        if self.accounts.len() >= MAX_PEERS && !self.accounts.contains_key(&peer) {
            let gone = forget_least(&mut self.accounts, MAX_PEERS, now);
            let room = MAX_CHANGED.saturating_sub(self.changed.len());
            self.changed.extend(gone.into_iter().take(room));
        }
        self.accounts.entry(peer).or_insert_with(|| Account::new(now))
    }

    fn note_network(&mut self, network: u64, bad: f64, now: Instant) {
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(&network) {
            forget_least(&mut self.networks, MAX_NETWORKS, now);
        }
        let account = self.networks.entry(network).or_insert_with(|| Account::new(now));
        account.add(Sums { bad, ..Sums::default() }, now);
    }
}

/// Makes room: the quarter that says least goes, so that a stranger with many names cannot wash out the record of the
/// worst.
fn forget_least<K: Hash + Eq + Copy>(accounts: &mut HashMap<K, Account>, max: usize, now: Instant) -> Vec<K> {
    let mut weights: Vec<(f64, K)> = accounts.iter().map(|(key, account)| (account.now(now).total(), *key)).collect();
    let count = (max / 4).min(weights.len());
    if count < weights.len() {
        weights.select_nth_unstable_by(count, |a, b| a.0.total_cmp(&b.0));
    }
    let gone: Vec<K> = weights.into_iter().take(count).map(|(_, key)| key).collect();
    for key in &gone {
        accounts.remove(key);
    }
    gone
}

#[cfg(test)]
mod tests;
