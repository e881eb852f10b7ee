//! The contacts of one account, and what a REGISTER changes about them (RFC 3261 §10.3 step 7).

use super::address::same_uri;
use super::request::{Ask, Wanted};
use super::{BindId, Bound, ContactId, RegisterRequest};
use crate::sip::flow::Flow;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Instant;

/// A request older than what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Adds, or replaces the one with the same id.
    Put(Box<Bound>),
    Remove(ContactId),
}

impl Change {
    pub fn id(&self) -> ContactId {
        match self {
            Self::Put(bound) => bound.id,
            Self::Remove(id) => *id,
        }
    }
}

#[derive(Default)]
pub(super) struct Contacts {
    contacts: Vec<Bound>,
    /// Accepted, not confirmed, oldest first.
    pub pending: VecDeque<(BindId, Vec<Change>)>,
}

impl Contacts {
    /// What is visible.
    pub fn now(&self) -> &[Bound] {
        &self.contacts
    }

    pub fn get(&self, id: ContactId) -> Option<&Bound> {
        self.contacts.iter().find(|bound| bound.id == id)
    }

    pub fn ids(&self) -> Vec<ContactId> {
        self.contacts.iter().map(|bound| bound.id).collect()
    }

    pub fn is_idle(&self) -> bool {
        self.contacts.is_empty() && self.pending.is_empty()
    }

    pub fn apply(&mut self, change: Change) {
        apply(&mut self.contacts, change);
    }

    /// What will be there when everything pending is kept.
    pub fn projected(&self) -> Vec<Bound> {
        let mut after = self.contacts.clone();
        self.pending.iter().flat_map(|(_, changes)| changes).for_each(|change| apply(&mut after, change.clone()));
        after
    }

    /// Takes what was pending under `bind`.
    pub fn settle(&mut self, bind: BindId) -> Option<Vec<Change>> {
        let at = self.pending.iter().position(|(pending, _)| *pending == bind)?;
        self.pending.remove(at).map(|(_, changes)| changes)
    }

    /// Turns a request into changes; nothing is changed yet.
    ///
    /// # Errors
    /// `OutOfOrder` when a contact was already touched by the same Call-ID with this or a later CSeq.
    pub fn changes(
        &self,
        ask: Ask,
        request: &RegisterRequest<'_>,
        most: usize,
        now: Instant,
        mut fresh: impl FnMut() -> ContactId,
    ) -> Result<Vec<Change>, OutOfOrder> {
        let mut after = self.projected();
        let late = |bound: &Bound| bound.call_id == request.call_id && request.cseq <= bound.cseq;
        let wanted = match ask {
            Ask::Fetch => Vec::new(),
            Ask::RemoveAll if after.iter().any(late) => return Err(OutOfOrder),
            Ask::RemoveAll => return Ok(after.iter().map(|bound| Change::Remove(bound.id)).collect()),
            Ask::Bind(wanted) => wanted,
        };
        let listed: Vec<String> = wanted.iter().map(|one| one.uri.clone()).collect();
        let mut changes: Vec<Change> = Vec::new();
        for one in wanted {
            let known = after.iter().find(|bound| same_uri(&bound.uri, &one.uri));
            // The same contact twice in one request is not late: the later one holds.
            let touched = known.is_some_and(|bound| changes.iter().any(|change| change.id() == bound.id));
            if !touched && known.is_some_and(late) {
                return Err(OutOfOrder);
            }
            let change = if one.expires.is_zero() {
                let Some(known) = known else { continue };
                Change::Remove(known.id)
            } else {
                let replaced =
                    known.or_else(|| after.iter().find(|bound| succeeds(&one, request.flow, bound, &listed)));
                let id = replaced.map_or_else(&mut fresh, |bound| bound.id);
                Change::Put(Box::new(bound(id, one, request, now)))
            };
            apply(&mut after, change.clone());
            changes.push(change);
            // Full: the phone that has not been heard of for longest gives way. Refusing the new one would lock a phone
            // out for an hour that restarted a few times on changing ports.
            if after.len() > most
                && let Some(oldest) = after.iter().min_by_key(|bound| (bound.refreshed, bound.id))
            {
                let change = Change::Remove(oldest.id);
                apply(&mut after, change.clone());
                changes.push(change);
            }
        }
        Ok(changes)
    }
}

/// Whether `one` is the same phone as `bound` under a new contact URI: the same instance, or (where either says
/// nothing about that) the same address, as after a restart of the phone.
fn succeeds(one: &Wanted, flow: Flow, bound: &Bound, listed: &[String]) -> bool {
    let same = match (&one.instance, &bound.instance) {
        (Some(new), Some(old)) => new == old,
        (None, _) | (_, None) => flow == bound.flow,
    };
    same && !listed.iter().any(|uri| same_uri(uri, &bound.uri))
}

fn bound(id: ContactId, one: Wanted, request: &RegisterRequest<'_>, now: Instant) -> Bound {
    Bound {
        id,
        uri: one.uri,
        instance: one.instance,
        q: one.q,
        flow: request.flow,
        call_id: request.call_id.to_owned(),
        cseq: request.cseq,
        refreshed: now,
        expires: now + one.expires,
    }
}

fn apply(contacts: &mut Vec<Bound>, change: Change) {
    match change {
        Change::Put(new) => match contacts.iter_mut().find(|bound| bound.id == new.id) {
            Some(old) => *old = *new,
            None => contacts.push(*new),
        },
        Change::Remove(id) => contacts.retain(|bound| bound.id != id),
    }
}

/// Highest q first; among equals the one heard of last.
pub(super) fn best_first(contacts: &[Bound]) -> Vec<ContactId> {
    let mut sorted: Vec<&Bound> = contacts.iter().collect();
    sorted.sort_by_key(|bound| (Reverse(bound.q), Reverse(bound.refreshed), Reverse(bound.id)));
    sorted.into_iter().map(|bound| bound.id).collect()
}
