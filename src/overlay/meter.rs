//! What the overlay counts, for `/metrics` and for the status.

use crate::telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::collections::BTreeMap;

/// Bytes that streams carried since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    inbound: Counter,
    outbound: Counter,
}

impl Traffic {
    pub(super) fn came(&self, bytes: usize) -> usize {
        self.inbound.inc_by(bytes as u64);
        bytes
    }

    pub(super) fn went(&self, bytes: usize) -> usize {
        self.outbound.inc_by(bytes as u64);
        bytes
    }

    /// In and out.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.inbound.get(), self.outbound.get())
    }
}

/// The label of a refusal. Reasons are a closed set of words of ours, never bytes of a peer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

/// The node's counters. Cloneable; clones count together.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub(super) traffic: Traffic,
    pub(super) connections: Gauge,
    pub(super) peers: Gauge,
    pub(super) records: Gauge,
    pub(super) links: Gauge,
    pub(super) estimate: Gauge,
    pub(super) stored: Counter,
    pub(super) passed_on: Counter,
    pub(super) stamps: Counter,
    pub(super) audits: Counter,
    /// FETCHes of others that were answered, and questions of our own.
    pub(super) asked: Counter,
    pub(super) hot: Counter,
    pub(super) questions: Counter,
    pub(super) lookup_seconds: Histogram,
    pub(super) publish_seconds: Histogram,
    refused: Family<Reason, Counter>,
    totals: BTreeMap<String, u64>,
}

impl Meter {
    /// Registers everything under `peerline_overlay_`.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let meter = Self {
            traffic: Traffic::default(),
            connections: Gauge::default(),
            peers: Gauge::default(),
            records: Gauge::default(),
            links: Gauge::default(),
            estimate: Gauge::default(),
            stored: Counter::default(),
            passed_on: Counter::default(),
            stamps: Counter::default(),
            audits: Counter::default(),
            asked: Counter::default(),
            hot: Counter::default(),
            questions: Counter::default(),
            lookup_seconds: seconds(),
            publish_seconds: seconds(),
            refused: Family::default(),
            totals: BTreeMap::new(),
        };
        metrics.register("overlay", |registry| {
            registry.register("bytes_in", "Bytes that streams brought", meter.traffic.inbound.clone());
            registry.register("bytes_out", "Bytes that streams took", meter.traffic.outbound.clone());
            registry.register("connections", "Open connections", meter.connections.clone());
            registry.register("peers", "Peers in the routing table", meter.peers.clone());
            registry.register("records", "Records held for the overlay", meter.records.clone());
            registry.register("links", "Open links between users", meter.links.clone());
            registry.register("estimate", "Estimated nodes of the overlay", meter.estimate.clone());
            registry.register("stamps", "Proofs of work made for holders under load", meter.stamps.clone());
            registry.register("audits", "Own records asked for under another name", meter.audits.clone());
            registry.register("stored", "Records taken from peers", meter.stored.clone());
            registry.register(
                "passed_on",
                "Records passed on to servers that came into their region",
                meter.passed_on.clone(),
            );
            registry.register("asked", "Questions for records that were answered", meter.asked.clone());
            registry.register("hot", "Answers with a bundle that many ask for, and no names", meter.hot.clone());
            registry.register("questions", "Questions asked of peers", meter.questions.clone());
            registry.register("lookup_seconds", "Time to the first valid answer", meter.lookup_seconds.clone());
            registry.register("publish_seconds", "Time until enough receipts are there", meter.publish_seconds.clone());
            registry.register("refused", "What strangers sent in vain, by reason", meter.refused.clone());
        });
        meter
    }

    /// Counts something refused. `reason` comes from a closed set.
    pub(super) fn refuse(&mut self, reason: String) {
        self.refused.get_or_create(&Reason { reason: reason.clone() }).inc();
        *self.totals.entry(reason).or_default() += 1;
    }

    pub(super) fn refusals(&self) -> &BTreeMap<String, u64> {
        &self.totals
    }
}
