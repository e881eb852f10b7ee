//! Requests inside a dialog (RFC 3261 §12.2.2, §14.2, §15.1.2): BYE, INFO, OPTIONS, re-INVITE.

use super::send::Answer;
use super::{Core, ServerKey};
use crate::sip::dialog::{Reoffer, State, cause_of, contact_for};
use crate::sip::flow::Flow;
use crate::sip::message::{ALLOW, Message};
use crate::sip::{Cause, LegId, SipEvent};
use rsipstack::sip::Method;

/// Largest INFO body passed on; DTMF relays are under 50 bytes.
const MAX_INFO: usize = 4_096;

impl Core {
    pub(super) fn inside(&mut self, flow: Flow, key: ServerKey, leg: Option<LegId>, method: Method, message: &Message) {
        let Some((id, leg)) = leg.and_then(|id| self.legs.get_mut(&id).map(|leg| (id, leg))) else {
            return self.answer_stateless(message, &flow, &Answer::new(481, "Call Does Not Exist"));
        };
        let tag_fits =
            !leg.dialog.remote_tag.is_empty() && message.tag_of_from() == Some(leg.dialog.remote_tag.as_str());
        if !tag_fits || !leg.dialog.flow.same_peer(&flow) {
            self.counts.refuse("foreign-dialog");
            return self.answer_stateless(message, &flow, &Answer::new(481, "Call Does Not Exist"));
        }
        if leg.dialog.remote_cseq.is_some_and(|last| message.cseq() <= last) {
            self.counts.refuse("cseq-order");
            return self.answer_stateless(message, &flow, &Answer::new(500, "CSeq Out Of Order"));
        }
        leg.dialog.remote_cseq = Some(message.cseq());
        // The phone's NAT or port changed: from now on it is reached there.
        if leg.dialog.flow != flow {
            leg.dialog.flow = flow;
            leg.dialog.contact = contact_for(&flow, None);
        }
        match method {
            Method::Bye => self.bye_received(id, key, message),
            Method::Info => self.info_received(id, key, message),
            Method::Options => {
                let headers = [("Allow", ALLOW), ("Accept", "application/sdp"), ("Supported", "")];
                self.answer_stateless(message, &flow, &Answer::new(200, "OK").with(&headers));
            }
            Method::Invite => self.reinvited(id, key, message),
            _ => self.answer_stateless(message, &flow, &Answer::new(400, "Bad Request")),
        }
    }

    fn bye_received(&mut self, id: LegId, key: ServerKey, message: &Message) {
        if let Some(tx) = self.open_server(key, message, "", None) {
            self.respond(tx, &Answer::new(200, "OK"));
        }
        let Some(leg) = self.legs.get(&id) else { return };
        let (silent, state, reoffer) = (leg.silent, leg.state.clone(), leg.reoffer);
        match state {
            State::Ringing { .. } => self.refuse_invite(id, &Cause { status: 487, words: "Request Terminated".into() }),
            State::Answered { invite, .. } => {
                self.stop_repeating(invite);
                self.drop_leg(id);
            }
            State::Up | State::Calling { .. } => {
                if let Reoffer::Acking(tx) = reoffer {
                    self.stop_repeating(tx);
                }
                self.drop_leg(id);
            }
        }
        if !silent {
            self.event(SipEvent::Ended { leg: id, cause: cause_of(message) });
        }
    }

    fn info_received(&mut self, id: LegId, key: ServerKey, message: &Message) {
        if message.body.len() > MAX_INFO {
            let flow = key.flow;
            return self.answer_stateless(message, &flow, &Answer::new(513, "Message Too Large"));
        }
        if let Some(tx) = self.open_server(key, message, "", None) {
            self.respond(tx, &Answer::new(200, "OK"));
        }
        let silent = self.legs.get(&id).is_none_or(|leg| leg.silent);
        // An INFO without a body asks whether we are there.
        if !silent && !message.body.is_empty() {
            let content_type = message.get("Content-Type").unwrap_or("application/octet-stream").to_owned();
            self.event(SipEvent::Info { leg: id, content_type, body: message.body.clone() });
        }
    }

    fn reinvited(&mut self, id: LegId, key: ServerKey, message: &Message) {
        let flow = key.flow;
        let Some(leg) = self.legs.get(&id) else { return };
        let refusal = match (&leg.state, leg.reoffer) {
            // Glare (§14.2).
            (State::Up, Reoffer::Ours(_)) => Some((491, "Request Pending")),
            (State::Up, Reoffer::Theirs(_)) => Some((500, "Still Answering")),
            (State::Up, Reoffer::None) if !leg.silent => None,
            (State::Up | State::Answered { .. } | State::Ringing { .. } | State::Calling { .. }, _) => {
                Some((491, "Request Pending"))
            }
        };
        if let Some((status, words)) = refusal {
            let headers = [("Retry-After", "3")];
            let headers: &[(&str, &str)] = if status == 500 { &headers } else { &[] };
            return self.answer_stateless(message, &flow, &Answer::new(status, words).with(headers));
        }
        let offer = match message.sdp() {
            Ok(Some(offer)) => offer,
            Ok(None) => {
                return self.answer_stateless(message, &flow, &Answer::new(488, "An Offer Is Needed In The INVITE"));
            }
            Err(()) => {
                let headers = [("Accept", "application/sdp")];
                return self.answer_stateless(
                    message,
                    &flow,
                    &Answer::new(415, "Unsupported Media Type").with(&headers),
                );
            }
        };
        let Some(tx) = self.open_server(key, message, "", Some(id)) else { return };
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.reoffer = Reoffer::Theirs(tx);
            leg.invite_cseq = message.cseq();
            leg.dialog.retarget(message);
        }
        self.respond(tx, &Answer::new(100, "Trying"));
        self.event(SipEvent::Reoffer { leg: id, offer });
    }
}
