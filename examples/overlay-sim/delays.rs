//! How long things take. Between honest servers lognormal, median as asked (60 ms), deviation 0.6 of the logarithm (so
//! that one pair in a hundred has four times the median), 400 ms at most, always the same for a pair. A peer to which
//! no connection is open costs two round trips: the QUIC handshake, then the request. Hostile servers sit next door:
//! 30 ms in all.

use super::rng::{Rng, hash};
use std::time::Duration;

const DEVIATION: f64 = 0.6;
const LONGEST: f64 = 400.0;
pub const HOSTILE: Duration = Duration::from_millis(30);
/// What an honest server needs for its answer.
const WORK: f64 = 1.0;

/// Round trip of a pair, milliseconds.
pub fn round_trip(a: u32, b: u32, seed: u64, median: f64) -> f64 {
    let mut rng = Rng::of(&[hash(&[seed, 3]), u64::from(a.min(b)), u64::from(a.max(b))]);
    (median * (DEVIATION * rng.normal()).exp()).clamp(2.0, LONGEST.max(median))
}

/// From sending a request to its answer.
pub fn answer_after(round_trip: f64, connected: bool) -> Duration {
    let trips = if connected { 1.0 } else { 2.0 };
    Duration::from_secs_f64((trips * round_trip + WORK) / 1_000.0)
}
