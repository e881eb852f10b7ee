//! A publication: four walks find who is in the regions, STORE goes to each of them and to the holders of last time;
//! receipts from enough networks in enough regions make it good (SECURITY §4.4).

use super::walk::{Seeds, WalkConfig};
use super::{Answer, Card, Failure, Observations, Request, RequestId};
use crate::record::{Judge, RecordKey, ValidBundle};
use std::sync::Arc;
use std::time::Instant;

/// What a publication says.
#[derive(Debug)]
pub enum Published {
    /// Enough receipts are here; it goes on to reach the others.
    Good { copies: usize },
    /// A holder has a newer or other bundle of this user, which is valid: merge, and publish again.
    Newer(ValidBundle),
    /// Over; `good` as above.
    Done { good: bool, copies: usize, wanted: usize, requests: usize },
}

#[derive(Debug)]
pub struct Publish {}

impl Publish {
    /// `holders`: who gave a receipt last time, by the index of the key; they are sent it at once. `walk`: false for a
    /// refresh in between, which searches only when too few of them answer (SECURITY "cheap refresh").
    #[allow(clippy::too_many_arguments, reason = "said once")]
    pub fn new(
        bundle: ValidBundle,
        keys: [RecordKey; 4],
        holders: [Vec<Arc<Card>>; 4],
        seeds: [Seeds; 4],
        radius_fraction: f64,
        walk: bool,
        config: WalkConfig,
        salt: u64,
        now: Instant,
    ) -> Self {
        unimplemented!()
    }

    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        unimplemented!()
    }

    pub fn poll_progress(&mut self) -> Option<Published> {
        unimplemented!()
    }

    pub fn answered(&mut self, id: RequestId, answer: Answer, judge: &Judge, now: Instant) {
        unimplemented!()
    }

    pub fn failed(&mut self, id: RequestId, why: Failure, now: Instant) {
        unimplemented!()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    pub fn is_over(&self) -> bool {
        unimplemented!()
    }

    /// Who gave a receipt, by the index of the key: for the next refresh.
    pub fn holders(&self) -> &[Vec<Arc<Card>>; 4] {
        unimplemented!()
    }

    pub fn take_observations(&mut self) -> Observations {
        unimplemented!()
    }
}
