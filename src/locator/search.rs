//! Finding others: cache, one lookup per user however many ask, pins, and who waits for the answer. Part of the actor.

use super::cache::{Cache, Cached};
use super::driver::Report;
use super::pins::Pins;
use super::{LocateError, Located, Network};
use crate::clock::UnixMillis;
use crate::overlay::{LookupEvent, LookupReport};
use crate::record::{RejectReason, ValidBundle};
use crate::uri::IdHash;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Users whose bindings are remembered (at most 12 KiB each, some 600 bytes as a rule).
const REMEMBERED: usize = 4096;

/// Lookups at once, and how many may wait for one of them.
const MOST_SEARCHES: usize = 256;
const MOST_WAITING: usize = 64;

/// Above the slowest lookup that still finds something (two of kad's 10 s timeouts in a row).
const LOOKUP_DEADLINE: Duration = Duration::from_secs(25);

struct Running {
    waiting: Vec<mpsc::Sender<Located>>,
    best: Option<ValidBundle>,
    /// Something that may be dialled was told to those who wait.
    told: bool,
    _task: AbortOnDropHandle<()>,
}

pub(super) struct Search<O> {
    overlay: O,
    pins: Pins,
    reports: mpsc::Sender<Report>,
    cache: Cache<ValidBundle>,
    running: HashMap<IdHash, Running>,
    hits: Counter,
    lookups: Counter,
    not_found: Counter,
    older_pin: Counter,
}

impl<O: Network> Search<O> {
    pub(super) fn new(overlay: O, pins: Pins, reports: mpsc::Sender<Report>) -> Self {
        Self {
            overlay,
            pins,
            reports,
            cache: Cache::new(REMEMBERED),
            running: HashMap::new(),
            hits: Counter::default(),
            lookups: Counter::default(),
            not_found: Counter::default(),
            older_pin: Counter::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("cache_hits", "Users found in the cache", self.hits.clone());
        registry.register("lookups", "Lookups in the overlay", self.lookups.clone());
        registry.register("not_found", "Lookups that found nobody", self.not_found.clone());
        registry.register("older_pin", "Bundles refused for an older generation", self.older_pin.clone());
    }

    pub(super) fn locate(&mut self, who: IdHash, answers: mpsc::Sender<Located>) {
        let (now, wall) = (Instant::now(), UnixMillis::now());
        let mut told = false;
        let mut best = None;
        match self.cache.get(&who, now) {
            Cached::Fresh(bundle) => {
                let binding = bundle.binding(wall);
                if !binding.devices.is_empty() {
                    self.hits.inc();
                    let _ = answers.try_send(Located::Binding { binding, from_cache: true });
                    let _ = answers.try_send(Located::Done(Ok(LookupReport::default())));
                    return;
                }
            }
            Cached::Old(bundle) => {
                let binding = bundle.binding(wall);
                if !binding.devices.is_empty() {
                    self.hits.inc();
                    best = Some(bundle.clone());
                    told = answers.try_send(Located::Binding { binding, from_cache: true }).is_ok();
                }
            }
            Cached::Missed => {
                let _ = answers.try_send(Located::Done(Err(LocateError::NotFound)));
                return;
            }
            Cached::Unknown => {}
        }
        if let Some(running) = self.running.get_mut(&who) {
            running.waiting.retain(|waiting| !waiting.is_closed());
            if running.waiting.len() >= MOST_WAITING {
                let _ = answers.try_send(Located::Done(Err(LocateError::Timeout)));
                return;
            }
            let found = running.best.as_ref().map(|bundle| bundle.binding(wall)).filter(|b| !b.devices.is_empty());
            if let Some(binding) = found {
                let _ = answers.try_send(Located::Binding { binding, from_cache: false });
            }
            running.waiting.push(answers);
            return;
        }
        if self.running.len() >= MOST_SEARCHES {
            let _ = answers.try_send(Located::Done(Err(LocateError::Timeout)));
            return;
        }
        self.lookups.inc();
        let task = AbortOnDropHandle::new(tokio::spawn(look_up(self.overlay.clone(), who, self.reports.clone())));
        self.running.insert(who, Running { waiting: vec![answers], best, told, _task: task });
    }

    pub(super) fn forget(&mut self, who: &IdHash) {
        self.cache.forget(who);
    }

    /// A valid bundle came; only something fresher than before is passed on.
    pub(super) fn found(&mut self, bundle: ValidBundle, now: Instant, wall: UnixMillis) {
        let who = bundle.id();
        if !self.pins.admits(&who, bundle.pin()) {
            self.older_pin.inc();
            return;
        }
        let Some(running) = self.running.get_mut(&who) else { return };
        let merged = running.best.as_ref().map_or_else(|| bundle.clone(), |best| best.merge(&bundle));
        self.cache.found(who, merged.clone(), now);
        let binding = merged.binding(wall);
        let news = running.best.as_ref().is_none_or(|best| best.binding(wall) != binding);
        running.best = Some(merged);
        if binding.devices.is_empty() || !news {
            return;
        }
        running.told = true;
        for waiting in &running.waiting {
            // One place is left for `Done`; who is that slow gets the newest with the next call.
            if waiting.capacity() > 1 {
                let _ = waiting.try_send(Located::Binding { binding: binding.clone(), from_cache: false });
            }
        }
    }

    /// The end of a lookup.
    pub(super) fn looked(&mut self, who: IdHash, report: Result<LookupReport, LocateError>, now: Instant) {
        let Some(running) = self.running.remove(&who) else { return };
        let result = match report {
            Ok(report) if running.told => Ok(report),
            Ok(report) => Err(self.why_not(&report)),
            Err(_) if running.told => Ok(LookupReport::default()),
            Err(error) => Err(error),
        };
        if matches!(result, Err(LocateError::NotFound)) {
            self.not_found.inc();
            self.cache.missed(who, now);
        }
        for waiting in running.waiting {
            let done = match &result {
                Ok(report) => Ok(report.clone()),
                Err(error) => Err(*error),
            };
            let _ = waiting.try_send(Located::Done(done));
        }
    }

    fn why_not(&self, report: &LookupReport) -> LocateError {
        let revoked = RejectReason::Revoked.to_string();
        if report.asked == 0 || self.overlay.peers().borrow().peers == 0 {
            LocateError::NoOverlay
        } else if report.refused.iter().any(|(_, reason)| *reason == revoked) {
            LocateError::Revoked
        } else {
            LocateError::NotFound
        }
    }
}

async fn look_up<O: Network>(overlay: O, who: IdHash, reports: mpsc::Sender<Report>) {
    let all = async {
        let mut events = overlay.lookup(who);
        while let Some(event) = events.recv().await {
            match event {
                LookupEvent::Found(bundle) => drop(reports.send(Report::Found { bundle }).await),
                LookupEvent::Done(report) => return Ok(report),
            }
        }
        // The overlay stops, or has too much to do.
        Err(LocateError::NoOverlay)
    };
    let report = tokio::time::timeout(LOOKUP_DEADLINE, all).await.unwrap_or(Err(LocateError::Timeout));
    let _ = reports.send(Report::Looked { who, report }).await;
}
