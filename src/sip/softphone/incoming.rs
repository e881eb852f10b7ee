//! Being called: INVITE, CANCEL, ACK, and what happens inside a call (RFC 3261 §9.2, §13.3, §14.2, §15.1.2).

use super::PhoneEvent;
use super::line::{ALLOW, Call, Dialog, Line, LineEvent, cause_of};
use super::message::{Message, Start};
use super::timers::GIVE_UP;
use crate::sip::Cause;
use bytes::Bytes;
use std::time::Instant;

type Key = (String, String);

/// A call that came and is not answered yet.
#[derive(Debug)]
pub(super) struct Ringing {
    key: Key,
    invite: Message,
}

impl Line {
    pub(super) fn invited(&mut self, key: Key, invite: Message, now: Instant) {
        if !matches!(self.call, Call::None) {
            return self.answer_with(key, &invite, (486, "Busy Here"), &[], None, now);
        }
        let (Some(offer), Some(from)) = (invite.sdp(), invite.uri("From").map(str::to_owned)) else {
            return self.answer_with(key, &invite, (488, "Offer Needed"), &[], None, now);
        };
        self.answer_with(key.clone(), &invite, (100, "Trying"), &[], None, now);
        let display = invite.display();
        self.call = Call::Ringing(Box::new(Ringing { key, invite }));
        self.tell(LineEvent::Phone(PhoneEvent::Incoming { from, display, offer }));
    }

    /// 180.
    pub fn ring(&mut self, now: Instant) {
        let Call::Ringing(ringing) = std::mem::replace(&mut self.call, Call::None) else { return };
        let contact = self.contact();
        self.answer_with(ringing.key.clone(), &ringing.invite, (180, "Ringing"), &[("Contact", &contact)], None, now);
        self.call = Call::Ringing(ringing);
    }

    /// 200.
    pub fn answer(&mut self, sdp: Bytes, now: Instant) {
        let Call::Ringing(ringing) = std::mem::replace(&mut self.call, Call::None) else { return };
        let Ringing { key, invite } = *ringing;
        let contact = self.contact();
        let more = [("Contact", contact.as_str()), ("Allow", ALLOW)];
        self.answer_with(key.clone(), &invite, (200, "OK"), &more, Some(&sdp), now);
        let Some(server) = self.servers.get(&key) else { return };
        let Some(sent) = Message::parse(&server.answer) else { return };
        let header = |name: &str| sent.get(name).unwrap_or_default().to_owned();
        let dialog = Dialog {
            call_id: invite.call_id().to_owned(),
            local_tag: sent.tag("To").unwrap_or_default().to_owned(),
            remote_tag: invite.tag("From").unwrap_or_default().to_owned(),
            local: header("To"),
            remote: header("From"),
            target: invite.uri("Contact").or(invite.uri("From")).unwrap_or_default().to_owned(),
            routes: invite.all("Record-Route").map(str::to_owned).collect(),
            cseq: 0,
            remote_cseq: invite.cseq().map_or(0, |(number, _)| number),
        };
        self.call = Call::Up { dialog: Box::new(dialog), sdp, unacked: Some(key), leaving: false };
    }

    /// Final refusal; `status` below 300 or above 699 counts as 603.
    pub fn reject(&mut self, status: u16, now: Instant) {
        match std::mem::replace(&mut self.call, Call::None) {
            Call::Ringing(ringing) => self.refuse(*ringing, status, now),
            other @ (Call::None | Call::Dialing(_) | Call::Up { .. }) => self.call = other,
        }
    }

    pub(super) fn refuse(&mut self, ringing: Ringing, status: u16, now: Instant) {
        let status = if (300..700).contains(&status) { status } else { 603 };
        let words = match status {
            404 => "Not Found",
            480 => "Temporarily Unavailable",
            486 => "Busy Here",
            487 => "Request Terminated",
            488 => "Not Acceptable Here",
            600 => "Busy Everywhere",
            603 => "Decline",
            _ => "Refused",
        };
        self.answer_with(ringing.key, &ringing.invite, (status, words), &[], None, now);
    }

    pub(super) fn cancelled(&mut self, key: Key, cancel: &Message, now: Instant) {
        let invite = (key.0.clone(), "INVITE".to_owned());
        if !self.servers.contains_key(&invite) {
            return self.answer_with(key, cancel, (481, "Call Does Not Exist"), &[], None, now);
        }
        self.answer_with(key, cancel, (200, "OK"), &[], None, now);
        match std::mem::replace(&mut self.call, Call::None) {
            Call::Ringing(ringing) if ringing.key == invite => {
                self.refuse(*ringing, 487, now);
                self.ended(cause_of(cancel));
            }
            other => self.call = other,
        }
    }

    pub(super) fn acked(&mut self, branch: &str, ack: &Message, now: Instant) {
        // Of a refusal: same branch (§17.2.1).
        let key = (branch.to_owned(), "INVITE".to_owned());
        let refused = self.servers.get_mut(&key).filter(|server| server.answer.get(8..9) != Some(b"2"));
        if let Some(server) = refused {
            server.resend = None;
            server.until = server.until.min(now + GIVE_UP);
            return;
        }
        // Of a 200: same dialog and CSeq.
        let number = ack.cseq().map(|(number, _)| number);
        let same = |server: &super::line::Server| {
            Message::parse(&server.answer).is_some_and(|answer| {
                answer.call_id() == ack.call_id() && answer.cseq().map(|(number, _)| number) == number
            })
        };
        for (_, server) in self.servers.iter_mut().filter(|((_, method), server)| method == "INVITE" && same(server)) {
            server.resend = None;
        }
        let Call::Up { dialog, unacked, leaving, .. } = &mut self.call else { return };
        if dialog.call_id != ack.call_id() || unacked.take().is_none() || !*leaving {
            return;
        }
        let dialog = dialog.clone();
        self.call = Call::None;
        self.bye(&dialog, now);
    }

    /// An INVITE's answer was never acknowledged: over (§13.3.1.4).
    pub(super) fn never_acked(&mut self, key: &Key, now: Instant) {
        let gone = match &self.call {
            Call::Up { unacked: Some(unacked), .. } => unacked == key,
            Call::Ringing(ringing) => ringing.key == *key,
            Call::None | Call::Dialing(_) | Call::Up { unacked: None, .. } => false,
        };
        if !gone {
            return;
        }
        let silent = match std::mem::replace(&mut self.call, Call::None) {
            Call::Up { dialog, leaving, .. } => {
                self.bye(&dialog, now);
                leaving
            }
            Call::None | Call::Dialing(_) | Call::Ringing(_) => false,
        };
        if !silent {
            self.ended(Some(Cause { status: 408, words: "no acknowledgement".to_owned() }));
        }
    }

    /// BYE, re-INVITE, UPDATE, INFO.
    pub(super) fn in_dialog(&mut self, key: Key, request: &Message, now: Instant) {
        let number = request.cseq().map_or(0, |(number, _)| number);
        let ours = |dialog: &Dialog| {
            dialog.call_id == request.call_id()
                && request.tag("To") == Some(&dialog.local_tag)
                && request.tag("From") == Some(&dialog.remote_tag)
        };
        let Call::Up { dialog, sdp, leaving, .. } = &mut self.call else {
            return self.answer_with(key, request, (481, "Call Does Not Exist"), &[], None, now);
        };
        if !ours(dialog) {
            return self.answer_with(key, request, (481, "Call Does Not Exist"), &[], None, now);
        }
        if dialog.remote_cseq >= number {
            return self.answer_with(key, request, (500, "CSeq Out Of Order"), &[], None, now);
        }
        dialog.remote_cseq = number;
        let (sdp, leaving) = (sdp.clone(), *leaving);
        let method = match &request.start {
            Start::Request { method, .. } => method.as_str(),
            Start::Response { .. } => return,
        };
        match method {
            "BYE" => {
                self.call = Call::None;
                self.answer_with(key, request, (200, "OK"), &[], None, now);
                if !leaving {
                    self.ended(cause_of(request));
                }
            }
            "INFO" => self.answer_with(key, request, (200, "OK"), &[], None, now),
            _ => {
                if let Some(target) = request.uri("Contact") {
                    dialog.target = target.to_owned();
                }
                let contact = self.contact();
                let more = [("Contact", contact.as_str()), ("Allow", ALLOW)];
                let body = (method == "INVITE" || request.sdp().is_some()).then_some(&sdp);
                self.answer_with(key, request, (200, "OK"), &more, body, now);
            }
        }
    }
}
