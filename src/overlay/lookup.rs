//! One lookup for somebody who waits: the engine's, with the events that its caller gets. The first valid bundle is told
//! at once and fresher ones as they come; the report when the engine is through, repairs still after that.

use super::{LookupEvent, LookupReport, peer_id_text};
use crate::dht::{self, Seeds, WalkConfig};
use crate::identity::NodeKey;
use crate::record::{RecordKey, ValidBundle};
use crate::uri::IdHash;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a node that knows nobody yet waits for its first peer, and for the first server when somebody is connected or
/// being dialled: a person who calls one second after the start rather waits than is told that there is no overlay.
const FIRST_PEER: Duration = Duration::from_secs(2);
const FIRST_SERVER: Duration = Duration::from_secs(6);

/// Neighbours are asked again while nothing is found: one that came up just now has published nothing yet, or has not found
/// us, and when the line of both is down the way between them may have led over it.
const NEAR_AGAIN: Duration = Duration::from_millis(500);
const NEAR_FOR: Duration = Duration::from_secs(6);

/// With fewer servers than contacts that agree, others who are on their way are waited for this long: the first alone may be
/// a liar, and a search asks only whom it begins with and those that they name.
const FEW: usize = 3;
const MORE_SERVERS: Duration = Duration::from_millis(500);

pub(super) struct Lookup {
    pub(super) who: IdHash,
    pub(super) keys: [RecordKey; 4],
    /// Once it has begun.
    pub(super) engine: Option<Box<dht::Lookup>>,
    /// What a neighbour held before it began.
    pub(super) near: Option<ValidBundle>,
    near_at: Instant,
    started: Instant,
    first_valid: Option<Instant>,
    events: mpsc::Sender<LookupEvent>,
    /// A result that the receiver had no room for.
    untold: Option<ValidBundle>,
    done: bool,
}

impl Lookup {
    pub(super) fn new(who: IdHash, keys: [RecordKey; 4], events: mpsc::Sender<LookupEvent>, now: Instant) -> Self {
        Self {
            who,
            keys,
            engine: None,
            near: None,
            near_at: now,
            started: now,
            first_valid: None,
            events,
            untold: None,
            done: false,
        }
    }

    /// With nobody to ask: whether somebody may still come. `hopeful`: a peer is there, or on its way.
    pub(super) fn waits(&self, hopeful: bool, now: Instant) -> bool {
        now < self.started + if hopeful { FIRST_SERVER } else { FIRST_PEER }
    }

    /// With `servers` to ask: whether it waits for more. `coming`: somebody is there or on its way whose card is not.
    pub(super) fn waits_for_more(&self, servers: usize, coming: bool, now: Instant) -> bool {
        coming && servers < FEW && now < self.started + MORE_SERVERS
    }

    pub(super) fn begin(
        &mut self,
        seeds: [Seeds; 4],
        radius_fraction: f64,
        salt: u64,
        local: Option<ValidBundle>,
        now: Instant,
    ) {
        let mut engine = dht::Lookup::new(self.keys, seeds, radius_fraction, WalkConfig::default(), salt, now);
        if let Some(local) = local {
            engine.local(local);
        }
        self.engine = Some(Box::new(engine));
    }

    /// Whether the nodes on the same network are to be asked now: at the beginning, and again while nothing is found.
    pub(super) fn asks_near(&mut self, now: Instant) -> bool {
        let due = self.near_due().is_some_and(|at| now >= at);
        if due {
            self.near_at = now + NEAR_AGAIN;
        }
        due
    }

    fn near_due(&self) -> Option<Instant> {
        (self.first_valid.is_none() && self.near_at < self.started + NEAR_FOR).then_some(self.near_at)
    }

    /// A node on the same network holds this.
    pub(super) fn held_near(&mut self, bundle: ValidBundle) {
        match &mut self.engine {
            Some(engine) => engine.local(bundle),
            None => self.near = Some(bundle),
        }
    }

    /// The engine found something, or something fresher.
    pub(super) fn found(&mut self, bundle: ValidBundle, now: Instant) {
        self.first_valid.get_or_insert(now);
        let told = self.events.try_send(LookupEvent::Found(bundle));
        self.untold = match told {
            Err(mpsc::error::TrySendError::Full(LookupEvent::Found(bundle))) => Some(bundle),
            _ => None,
        };
    }

    /// The engine is through.
    pub(super) fn done(&mut self, outcome: dht::Outcome, now: Instant) {
        self.done = true;
        let texts = |nodes: &[NodeKey]| nodes.iter().map(peer_id_text).collect::<Vec<String>>();
        let mut holders = texts(&outcome.holders);
        if self.first_valid.is_some() {
            // Older ones; where nothing was found, these are ones that are over.
            holders.extend(texts(&outcome.stale));
        }
        let report = LookupReport {
            took_ms: u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX),
            asked: outcome.asked,
            valid: holders.len(),
            empty: outcome.empty.len(),
            refused: outcome.refused.iter().map(|(node, why)| (peer_id_text(node), why.to_string())).collect(),
            holders,
        };
        tracing::debug!(
            who = ?self.who, took_ms = report.took_ms, valid = report.valid, asked = report.asked,
            requests = outcome.requests, crowded = outcome.crowded, "lookup ended"
        );
        tell(self.events.clone(), self.untold.take(), report);
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let next = match &self.engine {
            Some(engine) => engine.poll_timeout(),
            // Before that it is looked at whenever others are, too.
            None => Some(self.started + FIRST_SERVER),
        };
        next.into_iter().chain(self.near_due()).min()
    }

    /// The engine is through with its repairs too, or nobody waits for the result.
    pub(super) fn is_over(&self) -> bool {
        match self.done {
            true => self.engine.as_ref().is_none_or(|engine| engine.is_over()),
            false => self.events.is_closed(),
        }
    }

    /// Time from the start to the first valid answer.
    pub(super) fn first_valid_after(&self) -> Option<Duration> {
        self.first_valid.map(|at| at.saturating_duration_since(self.started))
    }
}

/// Sends the last events, in a task of their own when the receiver is slow; the task ends with the receiver.
fn tell(events: mpsc::Sender<LookupEvent>, untold: Option<ValidBundle>, report: LookupReport) {
    let last = LookupEvent::Done(report);
    if untold.is_none() {
        if let Err(mpsc::error::TrySendError::Full(last)) = events.try_send(last) {
            tokio::spawn(async move { events.send(last).await });
        }
        return;
    }
    tokio::spawn(async move {
        for event in untold.map(LookupEvent::Found).into_iter().chain([last]) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
}
