//! One lookup: all four replica keys at once, every answer verified by itself, the first valid one told at once and
//! fresher ones as they come; who had nothing or less is told afterwards (read repair). Sans-IO like `publish`.

use super::ask::Ask;
use super::{LookupEvent, LookupReport};
use crate::record::{RecordKey, RejectReason, ValidBundle};
use crate::uri::IdHash;
use libp2p::PeerId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// After the first valid answer, fresher ones are awaited this long.
const SETTLE: Duration = Duration::from_millis(1_500);

/// With nothing found, slow servers are awaited this long once [`ENOUGH_EMPTY`] have answered for each key.
const PATIENCE: Duration = Duration::from_secs(3);

/// Servers that answered "nothing here" for a key which make waiting for the slow ones pointless.
const ENOUGH_EMPTY: u32 = 12;

/// The whole lookup.
const DEADLINE: Duration = Duration::from_secs(15);

/// How long a node that knows nobody yet waits for its first peer.
const FIRST_PEER: Duration = Duration::from_secs(2);

/// Peers that a repair is sent to, for each key.
const MAX_REPAIRS: usize = 8;

/// Distinct answers remembered by their bytes, so that twenty equal copies cost one verification.
const MAX_JUDGED: usize = 16;

pub(super) struct Lookup {
    pub(super) keys: [RecordKey; 4],
    started: Instant,
    begun: bool,
    running: [bool; 4],
    merged: Option<ValidBundle>,
    first_valid: Option<Instant>,
    /// What each peer held, to know who needs a repair: per key, as of the last answer.
    held: [BTreeMap<PeerId, ValidBundle>; 4],
    /// Nearest first.
    empty: [Vec<PeerId>; 4],
    refused: BTreeMap<PeerId, RejectReason>,
    judged: Vec<(Vec<u8>, Result<ValidBundle, RejectReason>)>,
    events: mpsc::Sender<LookupEvent>,
    /// A result that the receiver had no room for.
    untold: Option<ValidBundle>,
}

impl Lookup {
    pub(super) fn new(keys: [RecordKey; 4], events: mpsc::Sender<LookupEvent>, now: Instant) -> Self {
        Self {
            keys,
            started: now,
            begun: false,
            running: [false; 4],
            merged: None,
            first_valid: None,
            held: Default::default(),
            empty: Default::default(),
            refused: BTreeMap::new(),
            judged: Vec::new(),
            events,
            untold: None,
        }
    }

    /// Begins at once when servers are known or the node itself holds the record, else when the first one is found.
    pub(super) fn begin(&mut self, servers: usize, local: Option<ValidBundle>, now: Instant) -> Vec<Ask> {
        if self.begun {
            return Vec::new();
        }
        if let Some(local) = local.filter(|_| self.merged.is_none()) {
            self.found(local, now);
        }
        if servers == 0 && self.merged.is_none() && now < self.started + FIRST_PEER {
            return Vec::new();
        }
        self.begun = true;
        self.running = [true; 4];
        (0..4).map(Ask::Get).collect()
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The verdict on bytes, if the same bytes were judged before.
    pub(super) fn judged(&self, bytes: &[u8]) -> Option<Result<ValidBundle, RejectReason>> {
        self.judged.iter().find(|(seen, _)| seen == bytes).map(|(_, verdict)| verdict.clone())
    }

    /// One peer (`None`: this node) answered under one key.
    pub(super) fn answered(
        &mut self,
        index: usize,
        peer: Option<PeerId>,
        bytes: &[u8],
        verdict: Result<ValidBundle, RejectReason>,
        now: Instant,
    ) {
        if self.judged.len() < MAX_JUDGED && self.judged(bytes).is_none() {
            self.judged.push((bytes.to_vec(), verdict.clone()));
        }
        match (verdict, peer) {
            (Ok(bundle), peer) => {
                if let Some(peer) = peer {
                    self.held[index].insert(peer, bundle.clone());
                }
                self.found(bundle, now);
            }
            (Err(reason), Some(peer)) => {
                self.refused.insert(peer, reason);
            }
            (Err(_), None) => {}
        }
    }

    fn found(&mut self, bundle: ValidBundle, now: Instant) {
        let merged = self.merged.as_ref().map_or_else(|| bundle.clone(), |held| held.merge(&bundle));
        if self.merged.as_ref() == Some(&merged) {
            return;
        }
        self.first_valid.get_or_insert(now);
        self.merged = Some(merged.clone());
        let told = self.events.try_send(LookupEvent::Found(merged));
        if let Err(mpsc::error::TrySendError::Full(LookupEvent::Found(merged))) = told {
            self.untold = Some(merged);
        }
    }

    /// The reading of a key ended; `without` are peers that answered and had nothing.
    pub(super) fn read_ended(&mut self, index: usize, without: impl IntoIterator<Item = PeerId>) {
        self.running[index] = false;
        for peer in without {
            if !self.held[index].contains_key(&peer) && !self.refused.contains_key(&peer) {
                self.empty[index].push(peer);
            }
        }
    }

    /// Whether waiting longer is pointless. `answers` is the least number of servers that answered for any key.
    pub(super) fn should_stop(&self, answers: u32, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.started);
        let settled = self.first_valid.is_some_and(|at| now >= at + SETTLE);
        let hopeless = self.first_valid.is_none() && elapsed >= PATIENCE && answers >= ENOUGH_EMPTY;
        self.begun && (settled || hopeless || elapsed >= DEADLINE || self.events.is_closed())
    }

    pub(super) fn is_over(&self) -> bool {
        self.begun && !self.running.contains(&true)
    }

    /// Time from the start to the first valid answer.
    pub(super) fn first_valid_after(&self) -> Option<Duration> {
        self.first_valid.map(|at| at.saturating_duration_since(self.started))
    }

    /// The last word: sends the report and returns the repairs to make, with the bytes to send.
    pub(super) fn finish(&mut self, who: IdHash, now: Instant) -> Option<(ValidBundle, Vec<Ask>)> {
        let valid: BTreeSet<PeerId> = self.held.iter().flat_map(|held| held.keys().copied()).collect();
        let empty: BTreeSet<PeerId> = self
            .empty
            .iter()
            .flatten()
            .filter(|p| !valid.contains(p) && !self.refused.contains_key(p))
            .copied()
            .collect();
        let report = LookupReport {
            took_ms: u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX),
            asked: valid.len() + empty.len() + self.refused.keys().filter(|p| !valid.contains(p)).count(),
            valid: valid.len(),
            empty: empty.len(),
            refused: self.refused.iter().map(|(peer, why)| (peer.to_string(), why.to_string())).collect(),
            holders: valid.iter().map(PeerId::to_string).collect(),
        };
        tracing::debug!(who = ?who, took_ms = report.took_ms, valid = report.valid, asked = report.asked, "lookup ended");
        let repairs = self.merged.as_ref().map(|merged| {
            let mut asks = Vec::new();
            for index in 0..self.keys.len() {
                let behind = self.held[index].iter().filter(|(_, held)| *held != merged).map(|(peer, _)| *peer);
                let peers: Vec<PeerId> = behind.chain(self.empty[index].iter().copied()).take(MAX_REPAIRS).collect();
                if !peers.is_empty() {
                    asks.push(Ask::Put { index, peers });
                }
            }
            (merged.clone(), asks)
        });
        tell(self.events.clone(), self.untold.take(), report);
        repairs
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

#[cfg(test)]
mod tests;
