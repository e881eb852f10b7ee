//! Time as a value. Rules and machines are told the time; only drivers read a clock, and they read this one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall-clock time in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Reads the system clock. For drivers only: rules and machines take the time as an argument.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The same instant in whole seconds, rounded down (the unit of every time in a record).
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// An instant from whole seconds since the Unix epoch; saturates.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }
}
