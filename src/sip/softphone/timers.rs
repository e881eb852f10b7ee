//! Retransmission over UDP (RFC 3261 §17): what was sent, when to send it again, when to give up.

use bytes::Bytes;
use std::time::{Duration, Instant};

/// RFC 3261 §17.1.1.1: round trip estimate.
pub(super) const T1: Duration = Duration::from_millis(500);
/// Longest interval between retransmissions of anything but an INVITE.
pub(super) const T2: Duration = Duration::from_secs(4);
/// 64·T1: when a transaction gives up, and how long its answer is repeated to latecomers.
pub(super) const GIVE_UP: Duration = Duration::from_secs(32);
/// Longest ringing (timer C is "larger than 3 minutes").
pub(super) const RINGING: Duration = Duration::from_secs(240);

/// Bytes on their way.
#[derive(Clone, Debug)]
pub(super) struct Resend {
    bytes: Bytes,
    /// When next, and the interval after that.
    next: Option<(Instant, Duration)>,
    /// Longest interval.
    slowest: Duration,
    pub until: Instant,
}

impl Resend {
    /// Sent now, and again until `settle`.
    pub fn new(bytes: Bytes, slowest: Duration, now: Instant) -> Self {
        Self { bytes, next: Some((now + T1, T1 * 2)), slowest, until: now + GIVE_UP }
    }

    /// No more retransmissions; over at `until`.
    pub fn settle(&mut self, until: Instant) {
        self.next = None;
        self.until = until;
    }

    /// A provisional answer to a request that is not an INVITE (§17.1.2.2).
    pub fn slow_down(&mut self, now: Instant) {
        self.next = self.next.map(|_| (now + T2, T2));
    }

    pub fn is_settled(&self) -> bool {
        self.next.is_none()
    }

    pub fn due(&self) -> Instant {
        self.next.map_or(self.until, |(at, _)| at.min(self.until))
    }

    /// What to send now.
    pub fn take_due(&mut self, now: Instant) -> Option<Bytes> {
        let (at, interval) = self.next?;
        if at > now {
            return None;
        }
        self.next = Some((now + interval.min(self.slowest), (interval * 2).min(self.slowest)));
        Some(self.bytes.clone())
    }
}
