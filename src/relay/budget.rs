//! Bytes of a month (UTC): what was sent for others, and what is promised to allocations that run. A promise is kept: it is
//! taken from the month before it is given, so that no call is cut for bytes. Pure.

use crate::clock::UnixMillis;

/// What everybody together may have, and strangers of it: half. The other half waits for members.
const STRANGERS: u64 = 2;

/// New allocations are refused where so much of a share is given away, in percent; the rest is for renewals.
const NEW_UP_TO: u64 = 90;

/// A row: version, month, bytes, bytes of strangers.
const ROW: usize = 21;
const VERSION: u8 = 1;

/// The month's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    bytes: u64,
    /// Months since the year 0.
    month: u32,
    spent: [u64; 2],
    promised: [u64; 2],
}

/// Whose bytes. Indexes the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Members = 0,
    Strangers = 1,
}

impl Budget {
    /// `bytes` a month; `row` is what [`Budget::row`] gave in an earlier run.
    pub(super) fn new(bytes: u64, row: Option<&[u8]>, wall: UnixMillis) -> Self {
        let mut budget = Self { bytes, month: month(wall), ..Self::default() };
        if let Some((kept, spent)) = row.and_then(decode)
            && kept == budget.month
        {
            budget.spent = spent;
        }
        budget
    }

    pub(super) fn row(&self) -> [u8; ROW] {
        let mut row = [VERSION; ROW];
        row[1..5].copy_from_slice(&self.month.to_be_bytes());
        row[5..13].copy_from_slice(&self.spent[0].to_be_bytes());
        row[13..].copy_from_slice(&self.spent[1].to_be_bytes());
        row
    }

    /// Promises `bytes` if there are so many. `new`: to somebody who has no call yet.
    pub(super) fn promise(&mut self, share: Share, bytes: u64, new: bool, wall: UnixMillis) -> bool {
        self.turn(wall);
        let left = |whole: u64, taken: u64| {
            let may = if new { whole / 100 * NEW_UP_TO } else { whole };
            bytes <= may.saturating_sub(taken)
        };
        let of = |share: Share| self.spent[share as usize].saturating_add(self.promised[share as usize]);
        let all = of(Share::Members).saturating_add(of(Share::Strangers));
        let fits = left(self.bytes, all)
            && match share {
                Share::Members => true,
                Share::Strangers => left(self.bytes / STRANGERS, of(Share::Strangers)),
            };
        if fits {
            self.promised[share as usize] += bytes;
        }
        fits
    }

    /// `bytes` were sent, out of a promise of which `left` bytes were left.
    pub(super) fn spend(&mut self, share: Share, bytes: u64, left: u64, wall: UnixMillis) {
        self.turn(wall);
        self.spent[share as usize] = self.spent[share as usize].saturating_add(bytes);
        self.take_back(share, bytes.min(left));
    }

    /// So much of a promise was not used.
    pub(super) fn take_back(&mut self, share: Share, bytes: u64) {
        self.promised[share as usize] = self.promised[share as usize].saturating_sub(bytes);
    }

    /// Sent in this month.
    pub(super) fn spent(&self) -> u64 {
        self.spent[0].saturating_add(self.spent[1])
    }

    /// Promised and not sent yet.
    pub(super) fn promised(&self) -> u64 {
        self.promised[0].saturating_add(self.promised[1])
    }

    /// A new month begins with nothing spent; what is promised stays promised. A clock that goes back does not.
    fn turn(&mut self, wall: UnixMillis) {
        let month = month(wall);
        if month > self.month {
            (self.month, self.spent) = (month, [0; 2]);
        }
    }
}

fn decode(row: &[u8]) -> Option<(u32, [u64; 2])> {
    let row: &[u8; ROW] = row.try_into().ok()?;
    let number = |at: usize| row[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let month = u32::from_be_bytes(*row[1..].first_chunk::<4>()?);
    (row[0] == VERSION).then(|| (month, [number(5), number(13)]))
}

/// Months since the year 0 of the proleptic Gregorian calendar, by the algorithm of Howard Hinnant (days from civil).
fn month(wall: UnixMillis) -> u32 {
    let days = wall.seconds() / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March is 0, so that the day of a leap year is the last one.
    let march = (5 * of_year + 2) / 153;
    u32::try_from((era * 400 + year_of_era) * 12 + march + 2).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOVEMBER: UnixMillis = UnixMillis(1_795_000_000_000);

    #[test]
    fn months_are_those_of_the_calendar() {
        // date -u -d @...: 2026-10-31 23:59:59, 2026-11-01, 2026-11-30 23:59:59, 2026-12-01, 2027-01-01, 2028-02-29, 2028-03-01.
        let at =
            [1_793_491_199, 1_793_491_200, 1_796_083_199, 1_796_083_200, 1_798_761_600, 1_835_395_200, 1_835_481_600];
        let months = at.map(|seconds| month(UnixMillis::from_seconds(seconds)));
        let first = months[0];
        assert_eq!(months.map(|month| month - first), [0, 1, 1, 2, 3, 16, 17]);
        assert_eq!(first, 2026 * 12 + 9);
    }

    #[test]
    fn a_promise_is_kept_and_what_is_not_used_comes_back() {
        let mut budget = Budget::new(1_000, None, NOVEMBER);
        assert!(budget.promise(Share::Members, 500, true, NOVEMBER));
        assert!(budget.promise(Share::Members, 400, true, NOVEMBER));
        assert!(!budget.promise(Share::Members, 1, true, NOVEMBER), "nine tenths are given away");
        assert!(budget.promise(Share::Members, 100, false, NOVEMBER), "a call goes on");
        assert!(!budget.promise(Share::Members, 1, false, NOVEMBER), "nothing is left");
        budget.spend(Share::Members, 300, 500, NOVEMBER);
        budget.take_back(Share::Members, 200);
        assert_eq!((budget.spent(), budget.promised()), (300, 500));
        assert!(budget.promise(Share::Members, 100, true, NOVEMBER));
    }

    #[test]
    fn strangers_have_half() {
        let mut budget = Budget::new(1_000, None, NOVEMBER);
        assert!(budget.promise(Share::Strangers, 450, true, NOVEMBER));
        assert!(!budget.promise(Share::Strangers, 10, true, NOVEMBER));
        assert!(budget.promise(Share::Strangers, 50, false, NOVEMBER));
        assert!(!budget.promise(Share::Strangers, 1, false, NOVEMBER));
        assert!(budget.promise(Share::Members, 400, true, NOVEMBER));
    }

    #[test]
    fn is_kept_across_a_restart_and_begins_anew_with_the_month() {
        let mut budget = Budget::new(1_000, None, NOVEMBER);
        budget.promise(Share::Strangers, 300, true, NOVEMBER);
        budget.spend(Share::Strangers, 250, 300, NOVEMBER);
        let row = budget.row();
        let again = Budget::new(1_000, Some(&row), NOVEMBER);
        assert_eq!((again.spent(), again.promised()), (250, 0));
        let december = UnixMillis(NOVEMBER.0 + 31 * 86_400_000);
        assert_eq!(Budget::new(1_000, Some(&row), december).spent(), 0);
        budget.spend(Share::Strangers, 10, 50, december);
        assert_eq!((budget.spent(), budget.promised()), (10, 40), "promises go over into the next month");
        budget.spend(Share::Strangers, 10, 40, NOVEMBER);
        assert_eq!(budget.spent(), 20, "a clock that went back forgives nothing");
        for cut in 0..ROW {
            assert_eq!(Budget::new(1_000, Some(&row[..cut]), NOVEMBER).spent(), 0);
        }
    }
}
