//! The next sequence number of a slot.

use crate::clock::UnixMillis;

/// `max(unix milliseconds, last used + 1, last seen in the overlay + 1)`: grows although the clock may go back, and a
/// device that lost all state just continues from the clock.
pub fn next_sequence(now: UnixMillis, last_used: Option<u64>, last_seen: Option<u64>) -> u64 {
    let after = |last: Option<u64>| last.map_or(0, |s| s.saturating_add(1));
    now.0.max(after(last_used)).max(after(last_seen))
}
