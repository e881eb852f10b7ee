//! What goes out: bytes on a flow, responses with or without a transaction, requests with one.

use super::timers::Due;
use super::{Core, Effect, MAX_HELD, MAX_TRANSACTIONS, ServerKey};
use crate::sip::flow::Flow;
use crate::sip::message::{Message, ReplyHead};
use crate::sip::transaction::{ClientTx, Purpose, ServerTx};
use crate::sip::{LegId, SipEvent};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How a response is made: status, words, further headers, body (type, bytes).
pub(super) struct Answer<'a> {
    pub status: u16,
    pub words: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Option<(&'a str, &'a [u8])>,
}

impl<'a> Answer<'a> {
    pub(super) fn new(status: u16, words: &'a str) -> Self {
        Self { status, words, headers: &[], body: None }
    }

    pub(super) fn with(mut self, headers: &'a [(&'a str, &'a str)]) -> Self {
        self.headers = headers;
        self
    }
}

/// The start line, for who debugs a call: numbers are in it, so TRACE only. Bodies are never logged (keys, addresses).
pub(super) fn trace_line(what: &'static str, flow: &Flow, bytes: &[u8]) {
    if tracing::enabled!(tracing::Level::TRACE) {
        let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(&line[..line.len().min(200)]);
        tracing::trace!(?flow, line = %line.escape_debug(), what);
    }
}

impl Core {
    /// Sends bytes; `false` when the connection or trunk is gone.
    pub(super) fn send(&mut self, flow: &Flow, bytes: Bytes) -> bool {
        trace_line("sent", flow, &bytes);
        match *flow {
            Flow::Udp { .. } => self.effects.push_back(Effect::Send { flow: *flow, bytes }),
            Flow::Tcp { connection, .. } => {
                if !self.connections.contains_key(&connection) {
                    return false;
                }
                self.effects.push_back(Effect::Send { flow: *flow, bytes });
            }
            Flow::Trunk(trunk) => {
                if !self.trunks.contains_key(&trunk) {
                    return false;
                }
                self.event(SipEvent::TrunkSend { trunk, message: bytes });
            }
        }
        true
    }

    /// Answers without keeping anything (§8.2.7): for refusals to whom is not known yet. The tag is the same for the
    /// same request, so that its ACK and repeats fit.
    pub(super) fn answer_stateless(&mut self, request: &Message, flow: &Flow, answer: &Answer<'_>) {
        let tag = self.stateless_tag(request);
        let bytes =
            ReplyHead::of(request, flow, &tag).response(answer.status, answer.words, answer.headers, answer.body);
        self.counts.response(answer.status);
        self.send(flow, bytes);
    }

    /// As `answer_stateless`, after a while; dropped when too many wait.
    pub(super) fn answer_later(&mut self, request: &Message, flow: &Flow, answer: &Answer<'_>, delay: Duration) {
        if delay.is_zero() {
            return self.answer_stateless(request, flow, answer);
        }
        if self.held.len() >= MAX_HELD {
            return self.counts.refuse("too-many-held");
        }
        let tag = self.stateless_tag(request);
        let bytes =
            ReplyHead::of(request, flow, &tag).response(answer.status, answer.words, answer.headers, answer.body);
        self.counts.response(answer.status);
        let id = self.fresh_id();
        self.held.insert(id, (*flow, bytes));
        self.arm(Some(self.now + delay), Due::Held(id));
    }

    fn stateless_tag(&self, request: &Message) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        hash.update(self.settings.key);
        hash.update(b"stateless");
        hash.update(request.call_id().as_bytes());
        hash.update(request.branch().unwrap_or_default().as_bytes());
        data_encoding::HEXLOWER.encode(&hash.finalize()[..8])
    }

    /// Keeps a request until it is answered. `None` (and 503) when there is no room.
    pub(super) fn open_server(
        &mut self,
        key: ServerKey,
        request: &Message,
        to_tag: &str,
        leg: Option<LegId>,
    ) -> Option<u64> {
        if !self.make_room() {
            self.counts.refuse("transactions-full");
            let busy = Answer::new(503, "Busy").with(&[("Retry-After", "5")]);
            self.answer_stateless(request, &key.flow, &busy);
            return None;
        }
        let head = ReplyHead::of(request, &key.flow, to_tag);
        let invite = key.method == rsipstack::sip::Method::Invite;
        let id = self.fresh_id();
        self.servers.insert(id, Box::new(ServerTx::new(key.flow, head, invite, leg)));
        let key = Arc::new(key);
        self.server_ids.insert(key.clone(), id);
        self.server_keys.insert(id, key);
        Some(id)
    }

    /// Room for one more transaction, by forgetting finished ones if need be.
    fn make_room(&mut self) -> bool {
        while self.servers.len() + self.clients.len() >= MAX_TRANSACTIONS {
            let Some(oldest) = self.finished.pop_front() else { return false };
            self.forget_server(oldest);
        }
        true
    }

    pub(super) fn respond(&mut self, id: u64, answer: &Answer<'_>) {
        let now = self.now;
        let Some(tx) = self.servers.get_mut(&id) else { return };
        // Without its head it has had its final response.
        let Some(head) = &tx.head else { return };
        let bytes = head.response(answer.status, answer.words, answer.headers, answer.body);
        let flow = tx.flow;
        tx.responded(answer.status, bytes.clone(), now);
        let invite = self.server_keys.get(&id).is_some_and(|key| key.method == rsipstack::sip::Method::Invite);
        self.counts.response(answer.status);
        self.send(&flow, bytes);
        if answer.status >= 200 {
            if self.servers.get(&id).and_then(|tx| tx.due()).is_some_and(|due| due <= now) {
                return self.forget_server(id);
            }
            if !invite {
                // INVITEs are ended by their ACK or timers and are bounded by the legs.
                self.finished.push_back(id);
                if self.finished.len() > 2 * MAX_TRANSACTIONS {
                    let servers = &self.servers;
                    self.finished.retain(|id| servers.contains_key(id));
                }
            }
            self.arm_server(id);
        }
    }

    pub(super) fn forget_server(&mut self, id: u64) {
        self.servers.remove(&id);
        if let Some(key) = self.server_keys.remove(&id) {
            self.server_ids.remove(&key);
        }
    }

    /// Sends a request with a transaction; `None` when its flow is gone or there is no room (nothing is kept then).
    pub(super) fn open_client(
        &mut self,
        flow: Flow,
        leg: LegId,
        purpose: Purpose,
        branch: String,
        bytes: Bytes,
        patience: Duration,
    ) -> Option<u64> {
        if !self.make_room() || !self.send(&flow, bytes.clone()) {
            return None;
        }
        let id = self.fresh_id();
        self.client_ids.insert(branch.clone(), id);
        let tx = ClientTx::new(flow, leg, purpose, branch, bytes, patience, self.now);
        self.clients.insert(id, Box::new(tx));
        self.arm_client(id);
        Some(id)
    }

    pub(super) fn forget_client(&mut self, id: u64) -> Option<Box<ClientTx>> {
        let tx = self.clients.remove(&id)?;
        self.client_ids.remove(&tx.branch);
        Some(tx)
    }
}
