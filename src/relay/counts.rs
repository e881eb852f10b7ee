//! What the relay counts, for `/metrics`, the status and the log.

use super::Refusal;
use super::pair::Dropped;
use crate::telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

/// Cloneable; clones count together.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) packets: Counter,
    pub(super) bytes: Counter,
    pub(super) granted: Counter,
    pub(super) renewed: Counter,
    pub(super) answered: Counter,
    pub(super) unanswered: Counter,
    pub(super) allocations: Gauge,
    pub(super) month: Gauge<i64>,
    /// Packets that the system had no room for.
    full: Counter,
    dropped: [Counter; Dropped::ALL.len()],
    refused: [Counter; Refusal::ALL.len()],
}

impl Counts {
    /// Registers everything under `peerline_relay_`.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let dropped = Family::<Reason, Counter>::default();
        let refused = Family::<Reason, Counter>::default();
        let of = |family: &Family<Reason, Counter>, reason: String| family.get_or_create(&Reason { reason }).clone();
        let counts = Self {
            packets: Counter::default(),
            bytes: Counter::default(),
            granted: Counter::default(),
            renewed: Counter::default(),
            answered: Counter::default(),
            unanswered: Counter::default(),
            allocations: Gauge::default(),
            month: Gauge::default(),
            full: of(&dropped, "full".into()),
            dropped: Dropped::ALL.map(|why| of(&dropped, why.name().into())),
            refused: Refusal::ALL.map(|why| of(&refused, why.to_string())),
        };
        metrics.register("relay", |registry| {
            registry.register("packets", "Packets passed on", counts.packets.clone());
            registry.register("bytes", "Bytes passed on, headers counted", counts.bytes.clone());
            registry.register("granted", "Allocations given", counts.granted.clone());
            registry.register("renewed", "Allocations renewed", counts.renewed.clone());
            registry.register("allocations", "Allocations that run", counts.allocations.clone());
            registry.register("month_bytes", "Bytes passed on in this month", counts.month.clone());
            registry.register("stun_answered", "Address requests answered", counts.answered.clone());
            registry.register("stun_refused", "Address requests not answered", counts.unanswered.clone());
            registry.register("dropped", "Packets that went no further, by reason", dropped.clone());
            registry.register("refused", "Requests that were refused, by reason", refused.clone());
        });
        counts
    }

    pub(super) fn drop(&self, why: Dropped) {
        self.dropped[why as usize].inc();
    }

    pub(super) fn full(&self) {
        self.full.inc();
    }

    pub(super) fn refuse(&self, why: Refusal) {
        self.refused[why as usize].inc();
    }

    /// By reason, what happened at all: refused, dropped.
    pub(super) fn reasons(&self) -> [BTreeMap<String, u64>; 2] {
        let happened = |name: String, counter: &Counter<u64, AtomicU64>| {
            let count = counter.get();
            (count > 0).then_some((name, count))
        };
        let refused = Refusal::ALL.iter().zip(&self.refused).filter_map(|(why, n)| happened(why.to_string(), n));
        let dropped = Dropped::ALL.iter().zip(&self.dropped).filter_map(|(why, n)| happened(why.name().into(), n));
        [refused.collect(), dropped.chain(happened("full".into(), &self.full)).collect()]
    }
}
