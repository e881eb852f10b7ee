//! A held record on disk: when it came and on whose share it counts, then its bytes.
//!
//! `0x01 || u64 arrived (unix ms) || u64 share || bundle`. Rows of before that are a bare bundle, which begins with 0x0a.

use super::shares::Share;
use crate::clock::UnixMillis;
use crate::record::{self, Judge, RecordKey, ValidBundle};

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
    /// Reads a row of the store: the third door of the validator. `None` for what is over, damaged, or not for `key`.
    pub fn read(key: &RecordKey, row: &[u8], judge: &Judge) -> Option<Self> {
        let (arrived, share, bytes) = match row.split_first_chunk::<HEAD>() {
            Some((head, bytes)) if head[0] == VERSION => {
                let at = |from: usize| head[from..].first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                (UnixMillis(at(1)), Share(at(9)), bytes)
            }
            _ => (judge.now, Share::UNKNOWN, row),
        };
        let bundle = record::validate(bytes, key, judge, None).ok()?;
        Some(Self { bundle, arrived, share })
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
