//! One walk to one position: eight isolated paths that find the region, and the sweep that asks everybody in it
//! (SECURITY §4.4). Knows nothing of records: what it asks at a peer is its owner's business.

use super::{Card, Failure, MAX_PEERS, Observations, Position};
use crate::identity::NodeKey;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The numbers of a walk. The defaults are those of a node; others are for measuring what each is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct WalkConfig {
    /// Isolated ways.
    pub paths: usize,
    /// Requests of a path that run at once.
    pub parallel: usize,
    /// Candidates that a path keeps.
    pub beam: usize,
    /// Peers of the region that are contacted: usually, and when it is more crowded than honest nodes make it.
    pub quota: usize,
    pub alarm_quota: usize,
    /// A silent peer stops holding up its path, and is given up.
    pub soft: Duration,
    pub hard: Duration,
    /// The whole walk.
    pub deadline: Duration,
}

impl Default for WalkConfig {
    fn default() -> Self {
        Self {
            paths: 8,
            parallel: 2,
            beam: 4,
            quota: 64,
            alarm_quota: 256,
            soft: Duration::from_millis(1_500),
            hard: Duration::from_secs(4),
            deadline: Duration::from_secs(10),
        }
    }
}

/// Who a walk begins with: from [`super::Table::seeds`].
#[derive(Clone, Debug, Default)]
pub struct Seeds {
    /// Nearest known to the target.
    pub near: Vec<Arc<Card>>,
    /// Any.
    pub random: Vec<Arc<Card>>,
}

/// Tells a question of a walk from its others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u64);

/// A peer to ask.
#[derive(Clone, Debug)]
pub struct Step {
    pub id: StepId,
    pub to: Arc<Card>,
}

/// The walk.
#[derive(Debug)]
pub struct Walk {}

impl Walk {
    /// `radius_fraction`: of the region, as a share of the space (`Estimate::region`). `salt`: makes choices differ
    /// from walk to walk, and repeatable.
    pub fn new(
        target: Position,
        seeds: Seeds,
        radius_fraction: f64,
        config: WalkConfig,
        salt: u64,
        now: Instant,
    ) -> Self {
        unimplemented!()
    }

    /// The next peer to ask now, if any; to be called until `None` after each input.
    pub fn poll(&mut self, now: Instant) -> Option<Step> {
        unimplemented!()
    }

    /// A peer answered with peers; at most [`MAX_PEERS`] of them are looked at.
    pub fn answered(&mut self, step: StepId, peers: &[Arc<Card>], now: Instant) {
        unimplemented!()
    }

    pub fn failed(&mut self, step: StepId, why: Failure, now: Instant) {
        unimplemented!()
    }

    /// When to call `poll` again at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// All paths have arrived or ended and the sweep is through, or the deadline has passed.
    pub fn is_over(&self, now: Instant) -> bool {
        unimplemented!()
    }

    /// Peers of the region that answered, in the order in which they did.
    pub fn region(&self) -> &[Arc<Card>] {
        unimplemented!()
    }

    /// More peers claim to be in the region than honest ones would be.
    pub fn is_crowded(&self) -> bool {
        unimplemented!()
    }

    /// Since the last call.
    pub fn take_observations(&mut self) -> Observations {
        unimplemented!()
    }
}
