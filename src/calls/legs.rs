//! Which call a leg belongs to: where the router puts what `sip` says of it.

use crate::sip::{LegId, SipEvent};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events of one call that wait for it: far more than any real call has at once.
const MOST_MAIL: usize = 64;

/// The way to one session.
#[derive(Clone)]
pub(super) struct Mailbox {
    mail: mpsc::Sender<SipEvent>,
    /// Ends the call that cannot keep up: an event was lost, so its state is no longer known.
    overwhelmed: CancellationToken,
}

impl Mailbox {
    pub(super) fn new() -> (Mailbox, mpsc::Receiver<SipEvent>, CancellationToken) {
        let (mail, inbox) = mpsc::channel(MOST_MAIL);
        let overwhelmed = CancellationToken::new();
        (Mailbox { mail, overwhelmed: overwhelmed.clone() }, inbox, overwhelmed)
    }
}

/// By leg. Bounded by the calls and their branches.
#[derive(Default)]
pub(super) struct Mailboxes {
    boxes: Mutex<HashMap<LegId, Mailbox>>,
}

/// A leg of a session: no event comes for it once this is dropped.
pub(super) struct Delivery {
    mailboxes: Arc<Mailboxes>,
    pub leg: LegId,
}

impl Mailboxes {
    pub(super) fn deliver_to(self: &Arc<Self>, leg: LegId, mailbox: Mailbox) -> Delivery {
        self.lock().insert(leg, mailbox);
        Delivery { mailboxes: self.clone(), leg }
    }

    /// Never waits. An event of a leg that nobody has any more is dropped: its call ended it.
    pub(super) fn post(&self, leg: LegId, event: SipEvent) {
        let Some(mailbox) = self.lock().get(&leg).cloned() else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = mailbox.mail.try_send(event) {
            mailbox.overwhelmed.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LegId, Mailbox>> {
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.mailboxes.lock().remove(&self.leg);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_cannot_keep_up_is_ended_and_a_leg_that_is_gone_gets_nothing() {
        let mailboxes = Arc::new(Mailboxes::default());
        let (mailbox, mut inbox, overwhelmed) = Mailbox::new();
        let delivery = mailboxes.deliver_to(LegId(1), mailbox);
        let ended = || SipEvent::Ended { leg: LegId(1), cause: None };
        for _ in 0..MOST_MAIL {
            mailboxes.post(LegId(1), ended());
        }
        assert!(!overwhelmed.is_cancelled());
        mailboxes.post(LegId(1), ended());
        assert!(overwhelmed.is_cancelled());
        while inbox.try_recv().is_ok() {}
        drop(delivery);
        mailboxes.post(LegId(1), ended());
        assert!(inbox.try_recv().is_err());
        assert!(mailboxes.lock().is_empty());
    }
}
