//! Calling: INVITE, its answers, and giving up (RFC 3261 §9.1, §13.2).

use super::line::{Call, Dialog, Line, LineEvent, Purpose, cause_of};
use super::message::{Message, Request};
use super::timers::{GIVE_UP, RINGING};
use super::{PhoneEvent, SoftphoneConfig};
use crate::sip::Cause;
use bytes::Bytes;
use std::time::Instant;

/// An INVITE of ours.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    uri: String,
    from: String,
    to: String,
    call_id: String,
    tag: String,
    cseq: u32,
    offer: Bytes,
    tries: u32,
    provisional: bool,
    /// Hung up before the answer: CANCEL as soon as allowed, and BYE if it is answered all the same.
    abandoned: bool,
}

impl Line {
    /// Calls `who`: a URI, or anything the node resolves.
    pub fn dial(&mut self, who: &str, offer: Bytes, now: Instant) {
        if !matches!(self.call, Call::None) {
            let cause = Cause { status: 486, words: "already in a call".to_owned() };
            return self.tell(LineEvent::Phone(PhoneEvent::Failed { cause }));
        }
        if self.is_full() {
            let cause = Cause { status: 503, words: "too many calls in a short time".to_owned() };
            return self.tell(LineEvent::Phone(PhoneEvent::Failed { cause }));
        }
        let uri = dialled(who, &self.config);
        let (call_id, tag) = (self.name(), self.name());
        let display = self.config.display.as_deref().map(quoted).unwrap_or_default();
        let from = format!("{display}<{}>;tag={tag}", self.own_uri());
        let to = format!("<{uri}>");
        let attempt =
            Attempt { uri, from, to, call_id, tag, cseq: 0, offer, tries: 0, provisional: false, abandoned: false };
        self.invite(attempt, now);
    }

    fn invite(&mut self, mut attempt: Attempt, now: Instant) {
        attempt.cseq += 1;
        let (contact, branch) = (self.contact(), self.branch());
        let authorization = self.authorization("INVITE", &attempt.uri);
        let mut more = vec![("Contact", contact.as_str()), ("Allow", super::line::ALLOW)];
        if let Some(value) = &authorization {
            more.push(("Authorization", value));
        }
        let local = self.local.to_string();
        let bytes = attempt.request("INVITE", &local, &branch).encode(&more, Some(&attempt.offer));
        self.call = Call::Dialing(branch.clone());
        self.send((branch, "INVITE".to_owned()), bytes, Purpose::Invite(Box::new(attempt)), now);
    }

    pub(super) fn invite_answered(&mut self, key: &(String, String), status: u16, message: &Message, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let Purpose::Invite(attempt) = &mut client.purpose else { return };
        if status < 200 {
            client.resend.settle(now + RINGING);
            let first = !std::mem::replace(&mut attempt.provisional, true);
            match (attempt.abandoned, first) {
                (true, true) => self.cancel(&key.0, now),
                (true, false) => {}
                (false, _) if status > 100 => {
                    self.tell(LineEvent::Phone(PhoneEvent::Ringing { status, sdp: message.sdp() }));
                }
                (false, _) => {}
            }
            return;
        }
        client.resend.settle(now + GIVE_UP);
        let attempt = attempt.clone();
        if status < 300 {
            return self.invite_accepted(key, &attempt, message, now);
        }
        // The ACK of a refusal belongs to the INVITE's transaction (§17.1.1.3).
        let mut request = attempt.request("ACK", "", &key.0);
        let (local, to) = (self.local.to_string(), message.get("To").unwrap_or_default());
        request.via.0 = &local;
        request.to = to;
        let ack = request.encode(&[], None);
        self.acknowledge(key, ack);
        if attempt.abandoned {
            return;
        }
        if matches!(status, 401 | 407) && self.challenged(message, attempt.tries) {
            return self.invite(Attempt { tries: attempt.tries + 1, provisional: false, ..*attempt }, now);
        }
        self.call = Call::None;
        let cause = cause_of(message).unwrap_or(Cause { status, words: String::new() });
        self.tell(LineEvent::Phone(PhoneEvent::Failed { cause }));
    }

    fn invite_accepted(&mut self, key: &(String, String), attempt: &Attempt, message: &Message, now: Instant) {
        let dialog = Dialog {
            call_id: attempt.call_id.clone(),
            local_tag: attempt.tag.clone(),
            remote_tag: message.tag("To").unwrap_or_default().to_owned(),
            local: attempt.from.clone(),
            remote: message.get("To").unwrap_or_default().to_owned(),
            target: message.uri("Contact").unwrap_or(&attempt.uri).to_owned(),
            // Record-Route from the end (§12.1.2).
            routes: message.all("Record-Route").map(str::to_owned).collect::<Vec<_>>().into_iter().rev().collect(),
            cseq: attempt.cseq,
            remote_cseq: 0,
        };
        let branch = self.branch();
        let ack = self.within(&dialog, "ACK", &branch, dialog.cseq);
        self.acknowledge(key, ack);
        match (attempt.abandoned, message.sdp()) {
            (true, _) => self.bye(&dialog, now),
            (false, Some(sdp)) => {
                let own = attempt.offer.clone();
                self.call = Call::Up { dialog: Box::new(dialog), sdp: own, unacked: None, leaving: false };
                self.tell(LineEvent::Phone(PhoneEvent::Answered { sdp }));
            }
            (false, None) => {
                self.bye(&dialog, now);
                self.call = Call::None;
                let cause = Cause { status: 488, words: "answered without a description of the media".to_owned() };
                self.tell(LineEvent::Phone(PhoneEvent::Failed { cause }));
            }
        }
    }

    fn acknowledge(&mut self, key: &(String, String), ack: Bytes) {
        self.send_once(ack.clone());
        if let Some(client) = self.clients.get_mut(key) {
            client.ack = Some(ack);
        }
    }

    /// Hung up while dialling.
    pub(super) fn give_up(&mut self, branch: &str, now: Instant) {
        let key = (branch.to_owned(), "INVITE".to_owned());
        let Some(client) = self.clients.get_mut(&key) else { return };
        let Purpose::Invite(attempt) = &mut client.purpose else { return };
        attempt.abandoned = true;
        if attempt.provisional {
            self.cancel(branch, now);
        }
    }

    fn cancel(&mut self, branch: &str, now: Instant) {
        let key = (branch.to_owned(), "INVITE".to_owned());
        let Some(client) = self.clients.get_mut(&key) else { return };
        // An answer that never comes is not waited for longer than this (§9.1).
        client.resend.settle(now + GIVE_UP);
        let Purpose::Invite(attempt) = &client.purpose else { return };
        let bytes = attempt.request("CANCEL", &self.local.to_string(), branch).encode(&[], None);
        self.send((branch.to_owned(), "CANCEL".to_owned()), bytes, Purpose::Farewell, now);
    }

    pub(super) fn invite_lost(&mut self, attempt: &Attempt, branch: &str) {
        if !attempt.abandoned && matches!(&self.call, Call::Dialing(dialing) if dialing == branch) {
            self.call = Call::None;
            let words = if attempt.provisional { "rang too long" } else { "no answer from the node's SIP port" };
            let cause = Cause { status: 408, words: words.to_owned() };
            self.tell(LineEvent::Phone(PhoneEvent::Failed { cause }));
        }
    }
}

impl Attempt {
    fn request<'a>(&'a self, method: &'a str, local: &'a str, branch: &'a str) -> Request<'a> {
        Request {
            method,
            uri: &self.uri,
            via: (local, branch),
            from: &self.from,
            to: &self.to,
            call_id: &self.call_id,
            cseq: self.cseq,
        }
    }
}

/// The request URI for what a person typed; characters that a URI cannot hold are escaped.
pub(super) fn dialled(who: &str, config: &SoftphoneConfig) -> String {
    let who = who.trim();
    let lower = who.to_ascii_lowercase();
    let user = who.get(if lower.starts_with("tel:") { 4 } else { 0 }..).unwrap_or(who);
    let (scheme, user) = match (lower.starts_with("sips:"), lower.starts_with("sip:")) {
        (true, _) => ("sips:", user.get(5..).unwrap_or_default()),
        (_, true) => ("sip:", user.get(4..).unwrap_or_default()),
        (false, false) => ("sip:", user),
    };
    let (user, host) = user.rsplit_once('@').unwrap_or((user, ""));
    let escaped: String = user.bytes().map(escaped).collect();
    let host: String = host.chars().filter(|letter| letter.is_ascii_graphic() && !"<>\"".contains(*letter)).collect();
    let host = if host.is_empty() { config.server.to_string() } else { host };
    format!("{scheme}{escaped}@{host}")
}

/// RFC 3261 §25.1: unreserved and user-unreserved stay, and so do escapes that are there already.
fn escaped(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/%:".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// A display name as a quoted string.
fn quoted(name: &str) -> String {
    let plain = name.chars().filter(|letter| !letter.is_control());
    let escaped: String = plain
        .flat_map(|letter| {
            ["\\"].into_iter().flat_map(str::chars).filter(move |_| matches!(letter, '"' | '\\')).chain([letter])
        })
        .collect();
    format!("\"{escaped}\" ")
}
