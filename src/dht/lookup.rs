//! A lookup: four walks at once, every answer judged, the freshest wins and is told at once, stale holders are repaired.

use super::walk::{Seeds, WalkConfig};
use super::{Answer, Failure, Observations, Request, RequestId};
use crate::identity::NodeKey;
use crate::record::{Judge, RecordKey, RejectReason, ValidBundle};
use std::collections::BTreeMap;
use std::time::Instant;

/// What a lookup says.
#[derive(Debug)]
pub enum Progress {
    /// A valid bundle, merged with all seen so far; again whenever it became fresher.
    Found(ValidBundle),
    Done(Outcome),
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Peers that answered.
    pub asked: usize,
    /// Requests sent.
    pub requests: usize,
    /// Who holds the newest, something older, or nothing though in the region.
    pub holders: Vec<NodeKey>,
    pub stale: Vec<NodeKey>,
    pub empty: Vec<NodeKey>,
    pub refused: BTreeMap<NodeKey, RejectReason>,
    /// Some region was more crowded than honest nodes make it.
    pub crowded: bool,
}

#[derive(Debug)]
pub struct Lookup {}

impl Lookup {
    /// `keys` are the user's replica keys, `seeds` where to begin for each.
    pub fn new(
        keys: [RecordKey; 4],
        seeds: [Seeds; 4],
        radius_fraction: f64,
        config: WalkConfig,
        salt: u64,
        now: Instant,
    ) -> Self {
        unimplemented!()
    }

    /// What this node holds itself: one voice like any other.
    pub fn local(&mut self, bundle: ValidBundle) {
        unimplemented!()
    }

    /// The next request to send now, if any; also repairs after `Done`. To be called until `None` after each input.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        unimplemented!()
    }

    pub fn poll_progress(&mut self) -> Option<Progress> {
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

    /// `Done` was told and no repair is under way.
    pub fn is_over(&self) -> bool {
        unimplemented!()
    }

    pub fn take_observations(&mut self) -> Observations {
        unimplemented!()
    }
}
