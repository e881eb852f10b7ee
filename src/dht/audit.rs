//! Which holder of an own record is asked whether it still has it, under a name that it does not know (SECURITY §4.8):
//! who keeps records only for those whom it saw publish them, or answers them alone, is found out by nobody else.
//!
//! One receipt in 32 is looked after, some minutes later: a publication has some 40, and an audit is a dial and a
//! question, which is a twentieth of its traffic. What it says is a fact for the ledger only where a signed receipt
//! says otherwise: nothing, or something older, within the promise.

use super::{Card, Observation};
use crate::clock::UnixMillis;
use crate::record::RecordKey;
use std::collections::VecDeque;
use std::sync::Arc;

/// Receipts of which one is looked after.
const ONE_IN: u64 = 32;

/// Audits that wait.
const MAX_WAITING: usize = 64;

/// From the receipt to the audit: the holder must not know the one by the other.
const LATER_MS: u64 = 60_000;
const SPREAD_MS: u64 = 300_000;

/// Audits of this node are at least so far apart: a gateway of a thousand users has 40 receipts a second.
const PAUSE_MS: u64 = 10_000;

/// One audit to make.
#[derive(Clone, Debug)]
pub struct Audit {
    pub key: RecordKey,
    pub holder: Arc<Card>,
    /// At least this sequence was promised.
    pub sequence: u64,
    /// Until then. An answer that comes later proves nothing.
    pub until: UnixMillis,
    due: UnixMillis,
}

impl Audit {
    /// What an answer says; `sequence` of a valid bundle, `None` for nothing. `None` when it proves nothing.
    pub fn judge(&self, sequence: Option<u64>, now: UnixMillis) -> Option<Observation> {
        match sequence {
            Some(held) if held >= self.sequence => Some(Observation::Useful),
            _ if now < self.until => Some(Observation::Broken),
            _ => None,
        }
    }
}

/// The schedule.
#[derive(Debug, Default)]
pub struct Audits {
    waiting: VecDeque<Audit>,
    last: UnixMillis,
}

impl Audits {
    /// `holder` gave a receipt: `sequence` under `key`, promised for `promise` seconds. `salt`: random.
    pub fn receipt(
        &mut self,
        key: RecordKey,
        holder: &Arc<Card>,
        sequence: u64,
        promise: u32,
        salt: u64,
        now: UnixMillis,
    ) {
        let due = UnixMillis(now.0 + LATER_MS + (salt / ONE_IN) % SPREAD_MS);
        let until = UnixMillis(now.0 + u64::from(promise) * 1_000);
        if salt.is_multiple_of(ONE_IN) && due < until && self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(Audit { key, holder: Arc::clone(holder), sequence, until, due });
        }
    }

    /// The next audit that is due, if any.
    pub fn poll(&mut self, now: UnixMillis) -> Option<Audit> {
        if now.0.abs_diff(self.last.0) < PAUSE_MS {
            return None;
        }
        self.waiting.retain(|audit| audit.until > now);
        let index = self.waiting.iter().position(|audit| audit.due <= now)?;
        self.last = now;
        self.waiting.remove(index)
    }
}

#[cfg(test)]
mod tests;
