//! Accounts on disk: sums as of a wall-clock time, so that they go on fading while nobody runs.
//!
//! `u64 time (unix ms) || f64 good || f64 slow || f64 bad || u64 network, 0 for none`, big-endian.

use super::{Account, BAD_HALF_LIFE, Ledger, MAX_PEERS, MOST, MOST_GOOD, MOST_OF_NETWORK, NETWORK_PART, PROVEN, Sums};
use crate::clock::UnixMillis;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Of a row.
pub const MAX_ROW_BYTES: usize = 40;

/// Accounts that say less are not kept.
const LEAST: f64 = 0.5;

impl<P: Hash + Eq + Copy> Ledger<P> {
    /// What changed since the last call: a row each, `None` for those of whom nothing is left to say.
    pub fn take_changes(&mut self, now: Instant, wall: UnixMillis) -> Vec<(P, Option<[u8; MAX_ROW_BYTES]>)> {
        let changed = std::mem::take(&mut self.changed);
        let row = |peer: &P| {
            let account = self.accounts.get(peer)?;
            let sums = account.now(now);
            (sums.total() >= LEAST).then(|| encode(sums, account.network, wall))
        };
        changed.into_iter().map(|peer| (peer, row(&peer))).collect()
    }

    /// Puts an account back that [`Ledger::take_changes`] gave in an earlier run. False for rows that say nothing any
    /// more, or are damaged: to be removed.
    pub fn restore(&mut self, peer: P, row: &[u8], now: Instant, wall: UnixMillis) -> bool {
        let Some((sums, network)) = decode(row, wall) else { return false };
        if sums.total() < LEAST || self.accounts.len() >= MAX_PEERS {
            return false;
        }
        self.accounts.insert(peer, Account { sums, at: now, network });
        if let Some(network) = network.filter(|_| sums.bad > 0.0) {
            self.note_network(network, (sums.bad * NETWORK_PART).min(MOST_OF_NETWORK), now);
        }
        true
    }
}

fn encode(sums: Sums, network: Option<u64>, wall: UnixMillis) -> [u8; MAX_ROW_BYTES] {
    let mut row = [0; MAX_ROW_BYTES];
    let words = [wall.0, sums.good.to_bits(), sums.slow.to_bits(), sums.bad.to_bits(), network.unwrap_or_default()];
    for (place, word) in row.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    row
}

fn decode(row: &[u8], wall: UnixMillis) -> Option<(Sums, Option<u64>)> {
    let row: &[u8; MAX_ROW_BYTES] = row.try_into().ok()?;
    let mut words = row.chunks_exact(8).map(|word| word.first_chunk::<8>().map_or(0, |word| u64::from_be_bytes(*word)));
    let written = words.next()?;
    let mut sum = |most: f64| words.next().map(f64::from_bits).filter(|sum| (0.0..=most).contains(sum));
    let sums = Sums { good: sum(MOST_GOOD)?, slow: sum(MOST)?, bad: sum(PROVEN)? };
    let network = words.next().filter(|network| *network != 0);
    // A clock that went back makes nobody worse, one that leaps forgives no more than all.
    let passed = Duration::from_millis(wall.0.saturating_sub(written)).min(BAD_HALF_LIFE * 64);
    Some((sums.faded(passed), network))
}
