//! A pair of addresses that has worked, and whether it still does. Pure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A path on which nothing genuine came for this long is not used any more: two lost checks of each end do no harm, and
/// speech comes fifty times a second.
pub(super) const SILENT: Duration = Duration::from_millis(1_500);
/// A path on which no check was answered for this long, whatever else came: the far end does not consent any more
/// (RFC 7675, which allows 30 s), or does not hear us.
const CONSENT: Duration = Duration::from_secs(5);

/// What is known of a pair of addresses that something genuine came on.
pub(super) struct Pair {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) relayed: bool,
    /// Working without a pause since.
    pub(super) since: Instant,
    pub(super) heard: Instant,
    pub(super) answered: Instant,
}

impl Pair {
    /// Packets may go there.
    pub(super) fn works(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) < SILENT && now.saturating_duration_since(self.answered) < CONSENT
    }

    /// Something genuine came.
    pub(super) fn hear(&mut self, now: Instant) {
        if !self.works(now) {
            self.since = now;
        }
        self.heard = now;
    }
}
