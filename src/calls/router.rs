//! Takes what `sip` says and brings it to whom it concerns. Waits for nobody but `sip`'s command queue, which `sip`
//! empties whether or not its events are taken.

use super::Shared;
use super::cause;
use super::legs::Mailbox;
use super::registrations::Changed;
use super::session::{Invitation, Session};
use crate::overlay::LinkId;
use crate::sip::{LegId, SipEvent};
use std::sync::Arc;
use tokio::sync::mpsc;

pub(super) async fn run(
    shared: Arc<Shared>,
    mut events: mpsc::Receiver<SipEvent>,
    registrations: mpsc::Sender<Changed>,
) {
    while let Some(event) = events.recv().await {
        match event {
            SipEvent::Contacts { account, bind, contacts: _, snapshot } => {
                if registrations.try_send(Changed { account, bind, snapshot }).is_err() {
                    tracing::warn!("too many registrations at once: a phone has to register again");
                    if let Some(bind) = bind {
                        shared.sip.confirm_bind(bind, false).await;
                    }
                }
            }
            SipEvent::Invited { leg, caller, dialled, display: _, offer } => {
                invited(&shared, Invitation { leg, caller, dialled, offer }).await;
            }
            SipEvent::TrunkSend { trunk, message } => {
                if let Err(error) = shared.overlay.send(LinkId(trunk.0), message) {
                    // The link is gone or its far end does not keep up: LinkDown ends its legs.
                    tracing::debug!(%error, "a message was not sent");
                    shared.overlay.close(LinkId(trunk.0));
                }
            }
            event @ (SipEvent::Progress { leg, .. }
            | SipEvent::Answered { leg, .. }
            | SipEvent::Failed { leg, .. }
            | SipEvent::Ended { leg, .. }
            | SipEvent::Reoffer { leg, .. }
            | SipEvent::ReofferAnswered { leg, .. }
            | SipEvent::ReofferFailed { leg, .. }
            | SipEvent::Info { leg, .. }) => shared.mailboxes.post(leg, event),
        }
    }
}

async fn invited(shared: &Arc<Shared>, invitation: Invitation) {
    let leg: LegId = invitation.leg;
    if shared.stop.is_cancelled() {
        shared.sip.reject(leg, cause::stopping()).await;
        return;
    }
    let Ok(place) = shared.places.clone().try_acquire_owned() else {
        shared.sip.reject(leg, cause::too_many_calls()).await;
        return;
    };
    let (mailbox, inbox, overwhelmed) = Mailbox::new();
    // Before the session runs, so that a CANCEL right behind the INVITE finds it.
    let delivery = shared.mailboxes.deliver_to(leg, mailbox.clone());
    let shared = shared.clone();
    tokio::spawn(async move {
        Session::new(shared, invitation, delivery, mailbox).await.run(inbox, overwhelmed).await;
        drop(place);
    });
}
