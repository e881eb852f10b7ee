//! The check from time to time whether this node has been parted from the overlay, as `dht::Joining` asks for it: contacts' records
//! and an own one are looked up, beginning at one peer that was reached before.

use super::LookupEvent;
use super::actor::Actor;
use super::joining::CARD;
use super::lookup::Lookup;
use super::operations::Operation;
use crate::dht::{Position, Seeds};
use crate::identity::NodeKey;
use crate::record;
use crate::uri::IdHash;
use std::time::Instant;
use tokio::sync::mpsc;

/// Users of others that are looked up in one check. Fewer say nothing: they may be away.
const CHECKED: usize = 3;

/// Events of a check's lookup.
const EVENTS: usize = 16;

/// A check that is under way.
pub(super) struct Check {
    /// Where it is to begin, as long as it has not.
    begin: Option<(NodeKey, Instant)>,
    who: Vec<IdHash>,
    running: Vec<mpsc::Receiver<LookupEvent>>,
    asked: usize,
    found: usize,
}

impl Actor {
    /// Looks up contacts by lot, users that were found before, and one of this node's own users of whom there are copies:
    /// who hides the overlay shows the own record that was stored with him, but not to those whom we knew before.
    pub(super) fn check(&mut self, through: Option<NodeKey>, now: Instant) {
        let salt = self.salt();
        let mut who = self.joining.engine.contacts().some(CHECKED, salt);
        for found in self.joining.found.iter().rev() {
            if who.len() < CHECKED && !who.contains(found) && !self.served.contains(found) {
                who.push(*found);
            }
        }
        let own = self.served.iter().find(|user| self.remembered.has_holders(user)).copied();
        if own.is_none() && who.len() < CHECKED {
            who.clear();
        }
        who.extend(own);
        let begin = through.map(|node| (node, now));
        self.joining.check = Some(Check { begin, asked: who.len(), who, running: Vec::new(), found: 0 });
        if through.is_none() {
            self.begin_check(None, now);
        }
    }

    fn begin_check(&mut self, seeds: Option<Seeds>, now: Instant) {
        let Some(mut check) = self.joining.check.take() else { return };
        check.begin = None;
        for who in std::mem::take(&mut check.who) {
            let (events, receiver) = mpsc::channel(EVENTS);
            let keys = record::replica_keys(&self.overlay, &who);
            let mut lookup = Lookup::new(who, keys, events, now);
            let (salt, radius) = (self.salt(), self.table.estimate().region());
            let seeds = match &seeds {
                Some(seeds) => keys.map(|_| seeds.clone()),
                None => keys.map(|key| self.seeds(&Position::of_key(&key), salt, now)),
            };
            // A copy of our own proves nothing: somebody else must hold it.
            lookup.begin(seeds, radius, salt, None, now);
            self.enqueue(Operation::Lookup(Box::new(lookup)));
            check.running.push(receiver);
        }
        self.joining.check = Some(check);
    }

    /// Once a second.
    pub(super) fn check_round(&mut self, now: Instant) {
        if let Some((node, since)) = self.joining.check.as_ref().and_then(|check| check.begin) {
            match self.table.card(&node).cloned() {
                Some(card) => self.begin_check(Some(Seeds { near: vec![card], random: Vec::new() }), now),
                None if now < since + CARD => return,
                None => self.begin_check(None, now),
            }
        }
        let Some(check) = &mut self.joining.check else { return };
        check.running.retain_mut(|events| match events.try_recv() {
            // That is all there is to know, and the search ends with its reader.
            Ok(LookupEvent::Found(_)) => {
                check.found += 1;
                false
            }
            Ok(LookupEvent::Done(_)) => false,
            Err(mpsc::error::TryRecvError::Empty) => true,
            Err(mpsc::error::TryRecvError::Disconnected) => {
                // Turned away, which says nothing.
                check.asked -= 1;
                false
            }
        });
        if check.running.is_empty() {
            let (found, asked) = (check.found, check.asked);
            self.joining.check = None;
            self.joining.engine.checked(found, asked, now);
        }
    }
}
