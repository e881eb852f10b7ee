//! What `sip` counts: for Prometheus and for `SipStatus.refused`.

use crate::telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counters and gauges of one SIP actor.
#[derive(Default)]
pub(super) struct Counts {
    requests: Family<MethodLabel, Counter>,
    responses: Family<StatusLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    refused_by_reason: BTreeMap<&'static str, u64>,
    pub legs: Gauge,
    pub transactions: Gauge,
    pub connections: Gauge,
    pub registrations: Gauge,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.register("sip", |registry| {
            registry.register("requests", "Requests received, by method", counts.requests.clone());
            registry.register("responses", "Responses sent, by status", counts.responses.clone());
            registry.register("refused", "Messages refused, by reason", counts.refused.clone());
            registry.register("legs", "Legs now", counts.legs.clone());
            registry.register("transactions", "Transactions now", counts.transactions.clone());
            registry.register("connections", "TCP connections now", counts.connections.clone());
            registry.register("registrations", "Registered contacts now", counts.registrations.clone());
        });
        counts
    }

    pub(super) fn request(&self, method: &'static str) {
        self.requests.get_or_create(&MethodLabel { method }).inc();
    }

    pub(super) fn response(&self, status: u16) {
        self.responses.get_or_create(&StatusLabel { status }).inc();
    }

    /// `reason` is one of a fixed set of words, never text of the peer.
    pub(super) fn refuse(&mut self, reason: &'static str) {
        tracing::debug!(reason, "SIP message refused");
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
        *self.refused_by_reason.entry(reason).or_default() += 1;
    }

    pub(super) fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused_by_reason
    }
}

/// A method as a label: unknown ones share one.
pub(super) fn method_label(method: &str) -> &'static str {
    const KNOWN: [&str; 14] = [
        "INVITE",
        "ACK",
        "CANCEL",
        "BYE",
        "OPTIONS",
        "INFO",
        "REGISTER",
        "MESSAGE",
        "SUBSCRIBE",
        "NOTIFY",
        "REFER",
        "UPDATE",
        "PRACK",
        "PUBLISH",
    ];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}
