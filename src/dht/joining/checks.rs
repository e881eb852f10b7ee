//! The check whether this node has been parted from the overlay (SECURITY §4.7): people who were there before are looked
//! up again, by a way that begins at a peer of the tried table alone, taken by lot. Through the table of now it would be
//! asked of those who hide it.

use super::*;

/// Peers of the cache that are dialled for one check before it is made by the table of now.
const TRIES: u8 = 3;

/// The check that is under way.
#[derive(Debug, Default)]
pub(super) struct Checking {
    running: bool,
    tries: u8,
    /// Where it begins, to be told the driver: `Some(None)` is anywhere.
    begin: Option<Option<NodeKey>>,
    lead: Option<LeadId>,
}

impl Joining {
    /// What the check wants now.
    pub(super) fn poll_check(&mut self, now: Instant, wall: UnixMillis) -> Option<Task> {
        if now >= self.check_at && !self.checking.running && self.views.networks() > 0 {
            self.check_at = now + between_checks(self.nodes());
            self.checking = Checking { running: true, ..Checking::default() };
        }
        if !self.checking.running {
            return None;
        }
        if let Some(through) = self.checking.begin.take() {
            self.checking.tries = TRIES;
            return Some(Task::Check(through));
        }
        if self.checking.tries >= TRIES || self.checking.lead.is_some() {
            return None;
        }
        self.checking.tries += 1;
        match self.some_tried(wall) {
            Some(peer) => self.reach_for_check(&peer, now),
            None => {
                self.checking.tries = TRIES;
                Some(Task::Check(None))
            }
        }
    }

    /// A peer that was reached before, any of them but those that are gone or only of the local network.
    fn some_tried(&mut self, wall: UnixMillis) -> Option<Remembered> {
        self.salt = self.salt.wrapping_add(1);
        let tried = self.cache.in_order(true, self.salt, wall).into_iter();
        // The order is by lot only among those that were there on as many days.
        let mut tried: Vec<&Remembered> = tried.filter(|peer| !peer.near && !peer.is_worn(wall)).collect();
        let lot = self.salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let at = usize::try_from(lot).unwrap_or(0).checked_rem(tried.len())?;
        Some(tried.swap_remove(at).clone())
    }

    fn reach_for_check(&mut self, peer: &Remembered, now: Instant) -> Option<Task> {
        if self.leads.iter().any(|path| path.up && path.node == Some(peer.node)) {
            self.checking.tries = TRIES;
            return Some(Task::Check(Some(peer.node)));
        }
        if let Some(path) = self.leads.iter_mut().find(|path| path.lead.node == Some(peer.node)) {
            self.checking.lead = Some(path.lead.id);
            if path.busy_until.is_some() {
                // It is being dialled.
                return None;
            }
            path.busy_until = Some(now + DIAL);
            return Some(Task::Dial(path.lead.clone()));
        }
        self.add_lead(Source::New, Some(peer.node), &peer.addresses, None, 0, now);
        let Some(path) = self.leads.last_mut().filter(|path| path.lead.node == Some(peer.node)) else {
            self.checking.tries = TRIES;
            return Some(Task::Check(None));
        };
        (path.feeler, path.busy_until) = (true, Some(now + DIAL));
        self.checking.lead = Some(path.lead.id);
        Some(Task::Dial(path.lead.clone()))
    }

    /// A lead was reached as `node`, or not.
    pub(super) fn check_reached(&mut self, id: LeadId, node: Option<NodeKey>) {
        if self.checking.lead == Some(id) {
            self.checking.lead = None;
            match node {
                Some(_) => self.checking.begin = Some(node),
                None if self.checking.tries >= TRIES => self.checking.begin = Some(None),
                None => {}
            }
        }
    }

    /// Of `asked` records that were there before, `found` are. None asked says nothing.
    pub fn checked(&mut self, found: usize, asked: usize, now: Instant) {
        self.checking = Checking::default();
        if asked > 0 {
            self.missed_checks = if found == 0 { self.missed_checks.saturating_add(1) } else { 0 };
            if self.missed_checks > 0 {
                self.check_at = now + CHECK_AGAIN;
            }
        }
        self.judge(now);
    }
}
