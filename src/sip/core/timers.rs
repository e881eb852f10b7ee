//! One heap of deadlines for everything that waits. An entry that no longer matches its owner's next deadline is dropped
//! when it comes up, or when such entries outnumber the others.

use super::{Core, LegId};
use crate::clock::UnixMillis;
use crate::sip::dialog::State;
use crate::sip::transaction::Timeout;
use crate::sip::{Cause, SipEvent};
use std::cmp::Ordering;
use std::time::Instant;

/// Entries that are not worth clearing up.
const FEW_ENTRIES: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Server(u64),
    Client(u64),
    Leg(LegId),
    Held(u64),
}

/// A deadline; the heap gives the earliest first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    at: Instant,
    order: u64,
    due: Due,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Core {
    pub(super) fn arm(&mut self, at: Option<Instant>, due: Due) {
        if let Some(at) = at {
            let order = self.fresh_id();
            self.timers.push(Entry { at, order, due });
            let owners = self.servers.len() + self.clients.len() + self.legs.len() + self.held.len();
            if self.timers.len() > FEW_ENTRIES + 4 * owners {
                let mut timers = std::mem::take(&mut self.timers);
                timers.retain(|entry| self.is_live(entry));
                self.timers = timers;
            }
        }
    }

    fn is_live(&self, entry: &Entry) -> bool {
        let due = match entry.due {
            Due::Server(id) => self.servers.get(&id).and_then(|tx| tx.due()),
            Due::Client(id) => self.clients.get(&id).and_then(|tx| tx.due()),
            Due::Leg(id) => self.legs.get(&id).and_then(|leg| leg.deadline),
            Due::Held(id) => self.held.contains_key(&id).then_some(entry.at),
        };
        due == Some(entry.at)
    }

    pub(super) fn arm_server(&mut self, id: u64) {
        let at = self.servers.get(&id).and_then(|tx| tx.due());
        self.arm(at, Due::Server(id));
    }

    pub(super) fn arm_client(&mut self, id: u64) {
        let at = self.clients.get(&id).and_then(|tx| tx.due());
        self.arm(at, Due::Client(id));
    }

    pub(super) fn arm_leg(&mut self, leg: LegId) {
        let at = self.legs.get(&leg).and_then(|leg| leg.deadline);
        self.arm(at, Due::Leg(leg));
    }

    /// When to call `handle_timeout` next. May be early: a stale entry costs one wake-up.
    pub(in crate::sip) fn poll_timeout(&self) -> Option<Instant> {
        let own = self.timers.peek().map(|entry| entry.at);
        match (own, self.registrar.poll_timeout()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Fires everything due at `now`.
    pub(in crate::sip) fn handle_timeout(&mut self, now: Instant, wall: UnixMillis) {
        self.now = now;
        while self.timers.peek().is_some_and(|entry| entry.at <= now) {
            let Some(entry) = self.timers.pop() else { break };
            if !self.is_live(&entry) {
                continue;
            }
            match entry.due {
                Due::Server(id) => self.server_timeout(id),
                Due::Client(id) => self.client_timeout(id),
                Due::Leg(id) => self.leg_timeout(id),
                Due::Held(id) => {
                    if let Some((flow, bytes)) = self.held.remove(&id) {
                        self.send(&flow, bytes);
                    }
                }
            }
        }
        if self.registrar.poll_timeout().is_some_and(|at| at <= now) {
            self.registrar.handle_timeout(now, wall);
        }
        self.registrar_changes();
    }

    fn server_timeout(&mut self, id: u64) {
        let now = self.now;
        let Some(tx) = self.servers.get_mut(&id) else { return };
        match tx.timeout(now) {
            Timeout::Resend(bytes) => {
                let flow = tx.flow;
                self.send(&flow, bytes);
                self.arm_server(id);
            }
            Timeout::Nothing => self.arm_server(id),
            Timeout::Over => self.forget_server(id),
            Timeout::Unanswered => {
                let leg = tx.leg;
                self.forget_server(id);
                if let Some(leg) = leg {
                    self.ack_missing(leg);
                }
            }
        }
    }

    fn client_timeout(&mut self, id: u64) {
        let now = self.now;
        let Some(tx) = self.clients.get_mut(&id) else { return };
        match tx.timeout(now) {
            Timeout::Resend(bytes) => {
                let flow = tx.flow;
                self.send(&flow, bytes);
                self.arm_client(id);
            }
            Timeout::Nothing => self.arm_client(id),
            Timeout::Over => {
                self.forget_client(id);
            }
            Timeout::Unanswered => {
                if let Some(tx) = self.forget_client(id) {
                    self.client_unanswered(&tx);
                }
            }
        }
    }

    /// A phone that rings without end is given up; `calls` normally ends it much earlier.
    fn leg_timeout(&mut self, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.deadline = None;
        let (silent, called) = (leg.silent, matches!(leg.state, State::Ringing { .. }));
        let cause = Cause { status: 408, words: "No Answer".into() };
        self.hang_up(id, cause.clone());
        if !silent {
            self.event(if called {
                SipEvent::Ended { leg: id, cause: Some(cause) }
            } else {
                SipEvent::Failed { leg: id, cause }
            });
        }
    }
}
