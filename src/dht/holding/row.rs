//! A held record on disk: when it came and on whose share it counts, then its bytes.
//!
//! `0x01 || u64 arrived (unix ms) || u64 share || bundle`. Rows of before that are a bare bundle, which begins with 0x0a.

use super::shares::Share;
use crate::clock::UnixMillis;
use crate::record::{self, Judge, RecordKey, RejectReason, ValidBundle};

const VERSION: u8 = 1;
const HEAD: usize = 17;

/// A row that passed the validator.
#[derive(Debug)]
pub struct Row {
    pub(super) bundle: ValidBundle,
    pub(super) arrived: UnixMillis,
    pub(super) share: Share,
}

impl Row {
    /// Reads a row of the store: the third door of the validator.
    ///
    /// # Errors
    /// What to do with a row that is not served.
    pub fn read(key: &RecordKey, row: &[u8], judge: &Judge) -> Result<Self, Unread> {
        let (arrived, share, bytes) = match row.split_first_chunk::<HEAD>() {
            Some((head, bytes)) if head[0] == VERSION => {
                let at = |from: usize| head[from..].first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                (UnixMillis(at(1)), Share(at(9)), bytes)
            }
            _ => (judge.now, Share::UNKNOWN, row),
        };
        match record::validate(bytes, key, judge, None) {
            Ok(bundle) => Ok(Self { bundle, arrived, share }),
            Err(reason) => Err(Unread::by(reason, bytes, key, judge)),
        }
    }
}

/// A row that is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Never will be: to be removed.
    Worthless,
    /// By today's clock; which may be wrong, and then the row is good again.
    NotNow,
}

/// A clock that says less was never set (2026).
const CLOCK_SET: UnixMillis = UnixMillis(1_767_225_600_000);

/// What ended more than an hour and less than a year ago is over. A machine without a battery may say anything: what
/// seems to have ended years ago stays where it is, as that is rather the clock's fault.
const OVER_MS: u64 = 3_600_000;
const LONG_OVER_MS: u64 = 365 * 86_400_000;

impl Unread {
    fn by(reason: RejectReason, bytes: &[u8], key: &RecordKey, judge: &Judge) -> Self {
        match reason {
            RejectReason::Malformed
            | RejectReason::TooLarge
            | RejectReason::WrongKey
            | RejectReason::BadSignature
            | RejectReason::WeakKey => Unread::Worthless,
            RejectReason::Expired => {
                let by_then = |ago: u64| {
                    let then = Judge { now: UnixMillis(judge.now.0.saturating_sub(ago)), ..*judge };
                    record::validate(bytes, key, &then, None).err()
                };
                let over = judge.now >= CLOCK_SET && by_then(OVER_MS) == Some(RejectReason::Expired);
                match over && by_then(LONG_OVER_MS) != Some(RejectReason::Expired) {
                    true => Unread::Worthless,
                    false => Unread::NotNow,
                }
            }
            _ => Unread::NotNow,
        }
    }
}

pub(super) fn encode(arrived: UnixMillis, share: Share, bytes: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEAD + bytes.len());
    row.push(VERSION);
    row.extend_from_slice(&arrived.0.to_be_bytes());
    row.extend_from_slice(&share.0.to_be_bytes());
    row.extend_from_slice(bytes);
    row
}
