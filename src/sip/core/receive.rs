//! Bytes from a peer: the checks in order of cost, then to the transaction or dialog that they belong to.

use super::send::{Answer, trace_line};
use super::{Core, DialogKey, Effect, ServerKey};
use crate::clock::UnixMillis;
use crate::sip::counts::method_label;
use crate::sip::flow::Flow;
use crate::sip::guard::{self, Framing, Refused, StartLine};
use crate::sip::message::{ALLOW, Message, Start, Unfit, answer_to_refused};
use bytes::Bytes;
use rsipstack::sip::Method;
use std::time::Instant;

impl Core {
    /// One datagram, one framed message of a stream, or one message of a trunk.
    pub(in crate::sip) fn receive(&mut self, flow: Flow, raw: &Bytes, now: Instant, wall: UnixMillis) {
        self.now = now;
        let within_rate = match flow {
            Flow::Trunk(trunk) => self.trunk_rates.take(trunk, now),
            Flow::Udp { remote, .. } | Flow::Tcp { remote, .. } => self.sources.take(remote.ip(), now),
        };
        if !within_rate {
            return self.counts.refuse("rate");
        }
        // RFC 5626 §3.5.1: a lone CRLF pair on UDP keeps a NAT open and wants no answer.
        if raw.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return;
        }
        trace_line("received", &flow, raw);
        let framing = if matches!(flow, Flow::Udp { .. }) { Framing::Datagram } else { Framing::Stream };
        let shape = match guard::check(raw, framing) {
            Ok(shape) => shape,
            Err(refused) => return self.refused(&flow, raw, refused),
        };
        if let StartLine::Request { method, .. } = shape.start {
            self.counts.request(method_label(method));
        }
        match Message::parse(raw, &shape) {
            Ok(message) => match &message.start {
                Start::Response { status, .. } => self.response(&flow, *status, &message),
                Start::Request { .. } => self.request(flow, &message, wall),
            },
            Err(Unfit::UnknownMethod) => {
                self.counts.refuse("unknown-method");
                // Allow goes with a 405 (§8.2.1), so the stateless writer cannot be the plain one.
                if let Some(bytes) = answer_to_refused(raw, &flow, 405, "Method Not Allowed", &[("Allow", ALLOW)]) {
                    self.counts.response(405);
                    self.send(&flow, bytes);
                }
            }
            Err(Unfit::Syntax) => {
                let refused = Refused { reason: "syntax", answer: Some((400, "Bad Request")) };
                self.refused(&flow, raw, refused);
            }
        }
    }

    /// A stream that lost its framing: answer if possible, then close.
    pub(in crate::sip) fn stream_broken(&mut self, flow: Flow, raw: &[u8], refused: Refused, now: Instant) {
        self.now = now;
        self.refused(&flow, raw, refused);
        if let Flow::Tcp { connection, .. } = flow {
            self.effects.push_back(Effect::Close { connection });
        }
    }

    fn refused(&mut self, flow: &Flow, raw: &[u8], refused: Refused) {
        self.counts.refuse(refused.reason);
        if let Some((status, words)) = refused.answer
            && let Some(bytes) = answer_to_refused(raw, flow, status, words, &[])
        {
            self.counts.response(status);
            self.send(flow, bytes);
        }
    }

    fn response(&mut self, flow: &Flow, status: u16, message: &Message) {
        let cancel = message.cseq_method() == "CANCEL";
        let branch = message.branch().unwrap_or_default();
        let found = if cancel { self.client_ids.get(&format!("{branch}/CANCEL")) } else { self.client_ids.get(branch) };
        let known = found.copied().filter(|id| {
            self.clients.get(id).is_some_and(|tx| tx.flow.same_peer(flow) && tx.method() == message.cseq_method())
        });
        match known {
            Some(id) => self.client_response(id, status, message),
            None => self.counts.refuse("stray-response"),
        }
    }

    fn request(&mut self, flow: Flow, message: &Message, wall: UnixMillis) {
        let Start::Request { method, uri } = &message.start else { return };
        let key = |method: Method| {
            let (sent_by, _) = message.top_via()?;
            // Without the magic cookie the branch is not unique (§17.2.3, RFC 2543 peers).
            let branch = match message.branch() {
                Some(branch) if branch.starts_with("z9hG4bK") && branch.len() <= 256 => branch.to_owned(),
                _ => format!("{} {} {}", message.call_id(), message.cseq(), message.tag_of_from().unwrap_or_default()),
            };
            Some(ServerKey { flow, branch, sent_by: sent_by.to_owned(), method })
        };
        let Some(own_key) = key(*method) else { return };
        match method {
            Method::Ack => {
                let invite = key(Method::Invite).and_then(|key| self.server_ids.get(&key).copied());
                return self.ack(&flow, invite, message);
            }
            Method::Cancel => {
                let invite = key(Method::Invite).and_then(|key| self.server_ids.get(&key).copied());
                return self.cancel(&flow, invite, message);
            }
            _ => {}
        }
        if let Some(tx) = self.server_ids.get(&own_key).and_then(|id| self.servers.get(id)) {
            if let Some(bytes) = tx.repeated() {
                self.send(&flow, bytes);
            }
            return;
        }
        if let Some(refusal) = self.unacceptable(*method, message) {
            self.counts.refuse(refusal.0);
            let headers: Vec<(&str, &str)> = refusal.3.iter().map(|(name, value)| (*name, value.as_str())).collect();
            return self.answer_stateless(message, &flow, &Answer::new(refusal.1, refusal.2).with(&headers));
        }
        if let Some(local_tag) = message.tag_of_to() {
            let dialog = DialogKey { call_id: message.call_id().to_owned(), local_tag: local_tag.to_owned() };
            let leg = self.dialogs.get(&dialog).copied();
            return self.inside(flow, own_key, leg, *method, message);
        }
        match method {
            Method::Options => {
                let headers = [
                    ("Allow", ALLOW),
                    ("Accept", "application/sdp"),
                    ("Accept-Encoding", "identity"),
                    ("Supported", ""),
                ];
                self.answer_stateless(message, &flow, &Answer::new(200, "OK").with(&headers));
            }
            Method::Register => self.register(flow, own_key, uri, message, wall),
            Method::Invite => self.invited(flow, own_key, uri, message),
            _ => self.answer_stateless(message, &flow, &Answer::new(481, "Call Does Not Exist")),
        }
    }

    /// What no request of ours may be: (counter, status, words, headers).
    #[allow(clippy::type_complexity)]
    fn unacceptable(
        &self,
        method: Method,
        message: &Message,
    ) -> Option<(&'static str, u16, &'static str, Vec<(&'static str, String)>)> {
        let known = matches!(method, Method::Invite | Method::Bye | Method::Options | Method::Info | Method::Register);
        if !known {
            return Some(("method", 405, "Method Not Allowed", vec![("Allow", ALLOW.to_owned())]));
        }
        if message.tag_of_from().is_none() && method != Method::Options {
            return Some(("no-from-tag", 400, "From Tag Required", vec![]));
        }
        // §8.2.2.3. Nothing may be required of us: no extension is supported.
        let required: Vec<&str> = message.list("Require").collect();
        if !required.is_empty() {
            return Some(("require", 420, "Bad Extension", vec![("Unsupported", required.join(", "))]));
        }
        let hops = message.get("Max-Forwards").map_or(Some(70), |text| text.parse::<u32>().ok());
        match hops {
            None => Some(("max-forwards", 400, "Bad Max-Forwards", vec![])),
            Some(0) if method == Method::Invite => Some(("max-forwards", 483, "Too Many Hops", vec![])),
            Some(_) => None,
        }
    }
}
