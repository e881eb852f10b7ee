//! What `calls` asks for on a leg that exists: hang up, re-offer, INFO. An unknown leg is one that has just ended; its
//! event is on the way, so nothing is said.

use super::Core;
use super::send::Answer;
use crate::sip::address::clean_words;
use crate::sip::dialog::{Leg, Reoffer, State};
use crate::sip::message::ALLOW;
use crate::sip::transaction::{Purpose, T1X64};
use crate::sip::{Cause, ContactId, LegId, SipEvent};
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Instant;

impl Core {
    /// Time of the commands that follow.
    pub(in crate::sip) fn at(&mut self, now: Instant) -> &mut Self {
        self.now = now;
        self
    }

    pub(in crate::sip) fn hang_up(&mut self, id: LegId, cause: Cause) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.silent = true;
        match &mut leg.state {
            State::Ringing { .. } => self.refuse_invite(id, &cause),
            // §15: no BYE before the ACK of our 2xx, or its absence for 32 s.
            State::Answered { bye, .. } => *bye = Some(cause),
            State::Calling { .. } => self.cancel_call(id, &cause),
            State::Up => self.say_bye(id, &cause),
        }
    }

    /// The phone said BYE instead of ACK: it has our 2xx.
    pub(super) fn stop_repeating(&mut self, tx: u64) {
        self.forget_server(tx);
    }

    pub(in crate::sip) fn reoffer(&mut self, id: LegId, offer: &Bytes) {
        self.refresh_flow(id);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.silent {
            return;
        }
        if leg.state != State::Up || leg.reoffer != Reoffer::None {
            let cause = Cause { status: 491, words: "Request Pending".into() };
            return self.event(SipEvent::ReofferFailed { leg: id, cause });
        }
        let cseq = leg.dialog.next_cseq();
        let dialog = leg.dialog.clone();
        let branch = format!("z9hG4bK{}", self.secret("branch"));
        let body = Some(("application/sdp", offer.as_ref()));
        let bytes = dialog.request("INVITE", cseq, &branch, &[("Allow", ALLOW)], body);
        match self.open_client(dialog.flow, id, Purpose::Reinvite, branch, bytes, T1X64) {
            Some(tx) => {
                if let Some(client) = self.clients.get_mut(&tx) {
                    client.dialog = Some(Box::new(dialog));
                }
                if let Some(leg) = self.legs.get_mut(&id) {
                    leg.reoffer = Reoffer::Ours(tx);
                }
            }
            None => {
                let cause = Cause { status: 480, words: "The Phone's Connection Is Gone".into() };
                self.event(SipEvent::ReofferFailed { leg: id, cause });
            }
        }
    }

    pub(in crate::sip) fn answer_reoffer(&mut self, id: LegId, sdp: &Bytes) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Reoffer::Theirs(tx) = leg.reoffer else { return };
        leg.reoffer = Reoffer::Acking(tx);
        let contact = leg.dialog.contact.clone();
        let headers = [("Contact", contact.as_str()), ("Allow", ALLOW)];
        let mut answer = Answer::new(200, "OK").with(&headers);
        answer.body = Some(("application/sdp", sdp));
        self.respond(tx, &answer);
    }

    pub(in crate::sip) fn reject_reoffer(&mut self, id: LegId, cause: &Cause) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Reoffer::Theirs(tx) = leg.reoffer else { return };
        leg.reoffer = Reoffer::None;
        let status = if (300..700).contains(&cause.status) { cause.status } else { 488 };
        self.respond(tx, &Answer::new(status, &cause.words));
    }

    pub(in crate::sip) fn info(&mut self, id: LegId, content_type: &str, body: &Bytes) {
        self.refresh_flow(id);
        let Some(leg) = self.legs.get_mut(&id).filter(|leg| leg.state == State::Up && !leg.silent) else { return };
        let cseq = leg.dialog.next_cseq();
        let dialog = leg.dialog.clone();
        let branch = format!("z9hG4bK{}", self.secret("branch"));
        let kind = clean_words(content_type);
        let bytes = dialog.request("INFO", cseq, &branch, &[], Some((&kind, body)));
        self.open_client(dialog.flow, id, Purpose::Info, branch, bytes, T1X64);
    }

    pub(in crate::sip) fn contacts(&self, account: &str) -> Vec<ContactId> {
        self.registrar.contacts(account)
    }

    pub(in crate::sip) fn contact_ips(&self, contact: ContactId) -> Option<(IpAddr, IpAddr)> {
        let flow = self.registrar.contact(contact)?.flow;
        Some((flow.local_ip()?, flow.remote_ip()?))
    }

    /// Ends every leg: BYE, CANCEL or a refusal, as its state asks. There is no time left to wait for ACKs.
    pub(in crate::sip) fn end_all(&mut self, cause: &Cause) {
        let mut legs: Vec<LegId> = self.legs.keys().copied().collect();
        legs.sort_unstable();
        for id in legs {
            if let Some(leg @ Leg { state: State::Answered { .. }, .. }) = self.legs.get_mut(&id) {
                leg.state = State::Up;
            }
            self.hang_up(id, cause.clone());
        }
    }
}
