//! Finished calls: the newest in memory for readers, some hundreds in the store.

use super::{CallRecord, CallsStatus};
use crate::store::{Store, Table};
use crate::telemetry::Metrics;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Calls kept in the store: some months of an ordinary person's.
const KEPT: usize = 500;

/// Calls shown to readers of [`CallsStatus`].
const SHOWN: usize = 50;

pub(super) struct History {
    store: Store,
    status: watch::Sender<CallsStatus>,
    /// Tells calls of one millisecond apart.
    turn: Mutex<u32>,
    started: Counter,
    answered: Counter,
    active: Gauge,
}

impl History {
    pub(super) fn new(store: Store, metrics: &Metrics) -> Self {
        let rows = store.scan_last(Table::History, SHOWN).unwrap_or_default();
        let recent = rows.iter().filter_map(|(_, row)| serde_json::from_slice(row).ok()).collect();
        let (started, answered, active) = (Counter::default(), Counter::default(), Gauge::default());
        metrics.register("calls", |registry| {
            registry.register("started", "Calls started", started.clone());
            registry.register("answered", "Calls that were answered", answered.clone());
            registry.register("active", "Calls that ring or talk", active.clone());
        });
        let status = watch::Sender::new(CallsStatus { active: 0, total: 0, recent });
        Self { store, status, turn: Mutex::new(0), started, answered, active }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<CallsStatus> {
        self.status.subscribe()
    }

    pub(super) fn started(&self) {
        self.started.inc();
        self.active.inc();
        self.status.send_modify(|status| {
            status.active += 1;
            status.total += 1;
        });
    }

    pub(super) fn finished(&self, record: CallRecord) {
        self.active.dec();
        if record.answered {
            self.answered.inc();
        }
        self.keep(&record);
        self.status.send_modify(|status| {
            status.active = status.active.saturating_sub(1);
            status.recent.insert(0, record);
            status.recent.truncate(SHOWN);
        });
    }

    /// Best effort: a call that cannot be noted has taken place all the same.
    fn keep(&self, record: &CallRecord) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = turn.wrapping_add(1);
        let mut key = record.started_ms.to_be_bytes().to_vec();
        key.extend(turn.to_be_bytes());
        let Ok(row) = serde_json::to_vec(record) else { return };
        if let Err(error) = self.store.put(Table::History, &key, &row) {
            tracing::debug!(%error, "a call was not noted in the history");
        }
        let over = self.store.len(Table::History).saturating_sub(KEPT);
        for (oldest, _) in self.store.scan(Table::History, over).unwrap_or_default() {
            let _ = self.store.remove(Table::History, &oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_across_a_restart() {
        let store = Store::temporary().unwrap();
        let history = History::new(store.clone(), &Metrics::default());
        for n in 0..600u64 {
            history.started();
            history.finished(CallRecord { started_ms: n, ..CallRecord::default() });
        }
        assert_eq!(store.len(Table::History), KEPT);
        let status = History::new(store, &Metrics::default()).subscribe().borrow().clone();
        assert_eq!((status.recent.len(), status.recent[0].started_ms, status.recent[49].started_ms), (SHOWN, 599, 550));
    }
}
