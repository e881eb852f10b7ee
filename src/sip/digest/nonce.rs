//! Nonces without a table of those given out, and the bounded table of those used.
//!
//! A nonce is `sequence (8 bytes) || milliseconds since start (8) || HMAC (16)` in hex. Nonce counts are kept per
//! sequence number once a request with it was *proven*; when that table is full the lowest number goes, and every nonce
//! up to it counts as stale from then on. So forgetting can cost a phone one more round, but never admits a replay.

use super::hash::{hex, hmac, same};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a nonce is good: long enough for a call to be set up and re-authenticated on the same challenge, short
/// enough that a recorded request is worthless soon. Phones that come later get `stale=true` and no question is asked.
const LIFE: Duration = Duration::from_secs(300);
/// Nonces in use at once: 65,536 × 32 bytes = 2 MiB. At 8,000 proven requests a second on fresh nonces it spans 8 s.
const MAX_USED: usize = 65_536;
/// Counts below the highest that may still come, once each: two requests of one phone can overtake each other on UDP.
const WINDOW: u32 = 32;

/// What spending a nonce came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    First,
    /// Too old, forgotten, or not from this process.
    Stale,
    /// This count was used before, or lies too far back to tell.
    Again,
}

#[derive(Clone, Copy)]
struct Used {
    highest: u32,
    /// Bit n: `highest - n` has been used.
    seen: u32,
    /// Used without a count: never again.
    closed: bool,
}

pub(super) struct Nonces {
    key: [u8; 32],
    started: Instant,
    next: u64,
    used: BTreeMap<u64, Used>,
    /// Numbers up to this one that are not in `used` may have been forgotten.
    forgotten: Option<u64>,
}

impl Nonces {
    pub fn new(key: [u8; 32], now: Instant) -> Self {
        Self { key, started: now, next: 0, used: BTreeMap::new(), forgotten: None }
    }

    /// HMAC of anything under this process's key, first half.
    pub fn seal(&self, message: &[u8]) -> [u8; 16] {
        let whole = hmac(&self.key, message);
        std::array::from_fn(|at| whole[at])
    }

    /// A nonce that was never given out before.
    pub fn issue(&mut self, now: Instant) -> String {
        let mut body = [0; 32];
        body[..8].copy_from_slice(&self.next.to_be_bytes());
        body[8..16].copy_from_slice(&self.millis(now).to_be_bytes());
        self.next += 1;
        let seal = self.seal(&body[..16]);
        body[16..].copy_from_slice(&seal);
        hex(&body)
    }

    /// Uses up `count` of a nonce (all of it, without a count). Call only for proven requests.
    pub fn spend(&mut self, nonce: &str, count: Option<u32>, now: Instant) -> Use {
        let Some((sequence, issued)) = self.open(nonce) else { return Use::Stale };
        if self.millis(now).saturating_sub(issued) > u64::try_from(LIFE.as_millis()).unwrap_or(u64::MAX) {
            self.used.remove(&sequence);
            return Use::Stale;
        }
        let forgotten = self.forgotten.is_some_and(|upto| sequence <= upto);
        match self.used.get_mut(&sequence) {
            Some(used) => used.spend(count),
            None if forgotten => Use::Stale,
            None => {
                self.used.insert(sequence, Used::first(count));
                if self.used.len() > MAX_USED {
                    self.forgotten = self.used.pop_first().map(|(sequence, _)| sequence);
                }
                Use::First
            }
        }
    }

    /// Sequence and issue time, when it is one of ours.
    fn open(&self, nonce: &str) -> Option<(u64, u64)> {
        if nonce.len() != 64 {
            return None;
        }
        let body = data_encoding::HEXLOWER_PERMISSIVE.decode(nonce.as_bytes()).ok()?;
        let (head, seal) = body.split_at_checked(16)?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        same(&self.seal(head), seal).then_some((number(&head[..8])?, number(&head[8..])?))
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Used {
    fn first(count: Option<u32>) -> Self {
        Self { highest: count.unwrap_or(0), seen: 1, closed: count.is_none() }
    }

    fn spend(&mut self, count: Option<u32>) -> Use {
        let Some(count) = count.filter(|_| !self.closed) else {
            self.closed = true;
            return Use::Again;
        };
        if count > self.highest {
            let step = count - self.highest;
            self.seen = self.seen.checked_shl(step).unwrap_or(0) | 1;
            self.highest = count;
            return Use::First;
        }
        let back = self.highest - count;
        if back >= WINDOW || self.seen & (1 << back) != 0 {
            return Use::Again;
        }
        self.seen |= 1 << back;
        Use::First
    }
}
