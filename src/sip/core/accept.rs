//! The called side of a leg (RFC 3261 §13.3): INVITE in, ringing, answer, refusal, CANCEL, ACK.

use super::send::Answer;
use super::{Core, DialogKey, ServerKey};
use crate::sip::address::{NameAddr, clean_display};
use crate::sip::dialog::{Dialog, Leg, Reoffer, State, cause_of, contact_for, dialled, presented, reason};
use crate::sip::flow::Flow;
use crate::sip::message::{ALLOW, Message};
use crate::sip::transaction::{ServerState, T1X64};
use crate::sip::{Caller, Cause, LegId, Presented, SipEvent};
use bytes::Bytes;
use std::time::Duration;

/// Longest ringing of a leg in either direction, as a net under the caller's own ring timeout.
pub(super) const LONGEST_RINGING: Duration = Duration::from_secs(600);

impl Core {
    /// An INVITE outside any dialog.
    pub(super) fn invited(&mut self, flow: Flow, key: ServerKey, uri: &str, message: &Message) {
        let (caller, dialled, account, contact) = if let Flow::Trunk(trunk) = flow {
            let Some(dialled) = self.trunk_accepts(trunk, uri, message) else { return };
            let contact = contact_for(&flow, self.trunks.get(&trunk).map(|trunk| trunk.local_uri.as_str()));
            (Caller::Trunk(trunk), dialled, None, contact)
        } else {
            let Some(account) = self.authenticate(flow, "INVITE", uri, message) else { return };
            let Some(dialled) = dialled(uri, &self.settings.realm, &flow) else {
                self.counts.refuse("uri-scheme");
                return self.answer_stateless(message, &flow, &Answer::new(416, "Unsupported URI Scheme"));
            };
            let (Some(local_ip), Some(remote_ip)) = (flow.local_ip(), flow.remote_ip()) else { return };
            (
                Caller::Phone { account: account.clone(), local_ip, remote_ip },
                dialled,
                Some(account),
                contact_for(&flow, None),
            )
        };
        let offer = match message.sdp() {
            Ok(Some(offer)) => offer,
            Ok(None) => {
                let answer = Answer::new(488, "An Offer Is Needed In The INVITE");
                return self.answer_stateless(message, &flow, &answer);
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
        if message.contact_uri().is_none() {
            return self.answer_stateless(message, &flow, &Answer::new(400, "Contact Required"));
        }
        let merge_key =
            (message.call_id().to_owned(), message.tag_of_from().unwrap_or_default().to_owned(), message.cseq());
        if self.merging.contains_key(&merge_key) {
            return self.answer_stateless(message, &flow, &Answer::new(482, "Loop Detected"));
        }
        if self.legs.len() >= self.settings.limits.max_legs {
            self.counts.refuse("legs-full");
            let headers = [("Retry-After", "10")];
            return self.answer_stateless(message, &flow, &Answer::new(503, "Too Many Calls").with(&headers));
        }
        let leg_id = self.new_leg_id();
        let local_tag = self.secret("tag");
        let Some(tx) = self.open_server(key, message, &local_tag, Some(leg_id)) else { return };
        let dialog = Dialog::accepting(message, flow, local_tag, contact);
        let mut leg = Leg::new(leg_id, dialog, State::Ringing { invite: tx });
        leg.trunk = if let Flow::Trunk(trunk) = flow { Some(trunk) } else { None };
        leg.account = account;
        leg.merge_key = Some(merge_key);
        leg.deadline = Some(self.now + LONGEST_RINGING);
        self.keep_leg(leg);
        if let Some(key) = self.legs.get(&leg_id).and_then(|leg| leg.merge_key.clone()) {
            self.merging.insert(key, tx);
        }
        self.respond(tx, &Answer::new(100, "Trying"));
        tracing::debug!(leg = leg_id.0, "call from a phone or trunk");
        let display =
            message.get("From").and_then(NameAddr::parse).and_then(|from| clean_display(from.display.as_deref()?));
        self.event(SipEvent::Invited { leg: leg_id, caller, dialled, display, offer });
    }

    /// Enters a leg into the tables.
    pub(super) fn keep_leg(&mut self, leg: Leg) {
        let key = DialogKey { call_id: leg.dialog.call_id.clone(), local_tag: leg.dialog.local_tag.clone() };
        self.dialogs.insert(key, leg.id);
        if let Some(trunk) = leg.trunk.and_then(|trunk| self.trunks.get_mut(&trunk)) {
            trunk.legs.insert(leg.id);
        }
        let (id, deadline) = (leg.id, leg.deadline);
        self.legs.insert(id, leg);
        self.arm(deadline, super::timers::Due::Leg(id));
    }

    /// Takes a leg out of all tables. Its transactions end by themselves.
    pub(super) fn drop_leg(&mut self, id: LegId) -> Option<Leg> {
        let leg = self.legs.remove(&id)?;
        let key = DialogKey { call_id: leg.dialog.call_id.clone(), local_tag: leg.dialog.local_tag.clone() };
        self.dialogs.remove(&key);
        if let Some(trunk) = leg.trunk.and_then(|trunk| self.trunks.get_mut(&trunk)) {
            trunk.legs.remove(&id);
        }
        if let Some(key) = &leg.merge_key {
            self.merging.remove(key);
        }
        match leg.reoffer {
            Reoffer::Theirs(tx) => self.respond(tx, &Answer::new(487, "Request Terminated")),
            // Its final response may still come; it is waited for no longer than any other.
            Reoffer::Ours(tx) => {
                if let Some(client) = self.clients.get_mut(&tx) {
                    client.give_up_at(self.now + T1X64);
                    self.arm_client(tx);
                }
            }
            Reoffer::None | Reoffer::Acking(_) => {}
        }
        Some(leg)
    }

    pub(in crate::sip) fn ring(&mut self, id: LegId, status: u16, sdp: Option<&Bytes>) {
        let Some(Leg { state: State::Ringing { invite }, dialog, .. }) = self.legs.get(&id) else { return };
        let (invite, contact) = (*invite, dialog.contact.clone());
        let status = if (101..200).contains(&status) { status } else { 180 };
        let words = if status == 183 { "Session Progress" } else { "Ringing" };
        let headers = [("Contact", contact.as_str()), ("Allow", ALLOW)];
        let mut answer = Answer::new(status, words).with(&headers);
        answer.body = sdp.map(|sdp| ("application/sdp", sdp.as_ref()));
        self.respond(invite, &answer);
    }

    pub(in crate::sip) fn answer(&mut self, id: LegId, sdp: &Bytes, connected: Option<&Presented>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let State::Ringing { invite } = leg.state else { return };
        leg.state = State::Answered { invite, bye: None };
        leg.deadline = None;
        let contact = leg.dialog.contact.clone();
        let identity = connected.and_then(presented);
        let mut headers = vec![("Contact", contact.as_str()), ("Allow", ALLOW)];
        if let Some(identity) = &identity {
            headers.push(("P-Asserted-Identity", identity));
        }
        let mut answer = Answer::new(200, "OK").with(&headers);
        answer.body = Some(("application/sdp", sdp));
        self.respond(invite, &answer);
    }

    pub(in crate::sip) fn reject(&mut self, id: LegId, cause: &Cause) {
        if let Some(Leg { state: State::Ringing { .. }, .. }) = self.legs.get(&id) {
            self.refuse_invite(id, cause);
        }
    }

    /// A final refusal to the caller; the leg is gone.
    pub(super) fn refuse_invite(&mut self, id: LegId, cause: &Cause) {
        let Some(leg) = self.drop_leg(id) else { return };
        let State::Ringing { invite } = leg.state else { return };
        let status = if (300..700).contains(&cause.status) { cause.status } else { 480 };
        let text = reason(cause);
        let headers = [("Reason", text.as_str())];
        self.respond(invite, &Answer::new(status, &cause.words).with(&headers));
    }

    /// CANCEL (§9.2). `invite` is the transaction that it names.
    pub(super) fn cancel(&mut self, flow: &Flow, invite: Option<u64>, message: &Message) {
        let Some(tx) = invite.and_then(|id| self.servers.get(&id)) else {
            return self.answer_stateless(message, flow, &Answer::new(481, "Call Does Not Exist"));
        };
        let leg = tx.leg.filter(|_| !tx.is_final());
        self.answer_stateless(message, flow, &Answer::new(200, "OK"));
        // After a final response a CANCEL changes nothing.
        let Some(id) = leg else { return };
        match self.legs.get(&id).map(|leg| (&leg.state, leg.reoffer)) {
            Some((State::Ringing { .. }, _)) => {
                let silent = self.legs.get(&id).is_some_and(|leg| leg.silent);
                self.refuse_invite(id, &Cause { status: 487, words: "Request Terminated".into() });
                if !silent {
                    self.event(SipEvent::Ended { leg: id, cause: cause_of(message) });
                }
            }
            // A cancelled re-INVITE: the offer is void, the session stays as it was.
            Some((_, Reoffer::Theirs(tx))) => {
                if let Some(leg) = self.legs.get_mut(&id) {
                    leg.reoffer = Reoffer::None;
                }
                self.respond(tx, &Answer::new(487, "Request Terminated"));
            }
            _ => {}
        }
    }

    /// ACK: of a refusal it ends the transaction (§17.2.1), of a 2xx it belongs to the dialog (§13.3.1.4).
    pub(super) fn ack(&mut self, flow: &Flow, invite: Option<u64>, message: &Message) {
        if let Some(id) = invite
            && self.servers.get(&id).is_some_and(|tx| tx.state == ServerState::Completed)
        {
            return self.transaction_acked(id);
        }
        let Some(local_tag) = message.tag_of_to() else { return };
        let key = DialogKey { call_id: message.call_id().to_owned(), local_tag: local_tag.to_owned() };
        let Some(id) = self.dialogs.get(&key).copied() else { return };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if !leg.dialog.flow.same_peer(flow) || message.tag_of_from() != Some(leg.dialog.remote_tag.as_str()) {
            return self.counts.refuse("foreign-dialog");
        }
        if leg.invite_cseq != message.cseq() {
            return;
        }
        match (leg.state.clone(), leg.reoffer) {
            (State::Answered { invite, bye }, _) => {
                leg.state = State::Up;
                self.transaction_acked(invite);
                if let Some(cause) = bye {
                    self.say_bye(id, &cause);
                }
            }
            (State::Up, Reoffer::Acking(tx)) => {
                leg.reoffer = Reoffer::None;
                self.transaction_acked(tx);
            }
            // A repeated ACK, or one for what is not answered.
            (State::Up | State::Ringing { .. } | State::Calling { .. }, _) => {}
        }
    }

    fn transaction_acked(&mut self, id: u64) {
        let now = self.now;
        let Some(tx) = self.servers.get_mut(&id) else { return };
        tx.acked(now);
        if tx.due().is_some_and(|due| due <= now) { self.forget_server(id) } else { self.arm_server(id) }
    }

    /// Nobody acknowledged our 2xx for 32 s: the session is ended with BYE (§13.3.1.4).
    pub(super) fn ack_missing(&mut self, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if !matches!((&leg.state, leg.reoffer), (State::Answered { .. }, _) | (State::Up, Reoffer::Acking(_))) {
            return;
        }
        leg.state = State::Up;
        let silent = leg.silent;
        let cause = Cause { status: 408, words: "No ACK".into() };
        self.counts.refuse("no-ack");
        self.say_bye(id, &cause);
        if !silent {
            self.event(SipEvent::Ended { leg: id, cause: Some(cause) });
        }
    }
}
