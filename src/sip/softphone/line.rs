//! The phone as a machine: datagrams and commands in, datagrams and events out, time as a value.
//!
//! `registering` keeps the account registered, `outgoing` and `incoming` hold the one call; this file has what they
//! share: identity, transactions, and which message is whose.

use super::message::{Message, Request, Start};
use super::timers::{GIVE_UP, Resend, T2};
use super::{PhoneEvent, SoftphoneConfig};
use crate::sip::Cause;
use crate::sip::digest::{Challenge, authorization};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::incoming::Ringing;
use super::outgoing::Attempt;
use super::registering::Registration;

/// Transactions of each kind, kept 32 s each: about 15 short calls a second, and the node is the only peer.
const MAX_TRANSACTIONS: usize = 1024;
pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE";

/// Comes out of the machine.
#[derive(Debug)]
pub(super) enum LineEvent {
    /// 200 to REGISTER.
    Registered,
    /// A final answer other than 200, or 408 when there was none.
    NotRegistered(u16),
    /// Un-registered, or not: nothing more will come of it.
    Unregistered,
    Phone(PhoneEvent),
}

/// What a request of ours was for.
#[derive(Debug)]
pub(super) enum Purpose {
    Register,
    Invite(Box<Attempt>),
    /// BYE or CANCEL: whatever comes back, it is over.
    Farewell,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Client {
    pub purpose: Purpose,
    pub resend: Resend,
    /// Answers each repeated final response to an INVITE.
    pub ack: Option<Bytes>,
}

/// A request that came, with its last answer.
#[derive(Debug)]
pub(super) struct Server {
    pub answer: Bytes,
    /// Set for a final answer to an INVITE, until its ACK.
    pub resend: Option<Resend>,
    pub until: Instant,
}

/// A dialog (RFC 3261 §12).
#[derive(Clone, Debug)]
pub(super) struct Dialog {
    pub call_id: String,
    pub local_tag: String,
    pub remote_tag: String,
    /// From of our requests, with tag.
    pub local: String,
    /// To of our requests, with tag.
    pub remote: String,
    pub target: String,
    pub routes: Vec<String>,
    pub cseq: u32,
    pub remote_cseq: u32,
}

/// The one call.
#[derive(Debug)]
pub(super) enum Call {
    None,
    /// The INVITE's branch.
    Dialing(String),
    Ringing(Box<Ringing>),
    Up {
        dialog: Box<Dialog>,
        sdp: Bytes,
        /// Our 200 still waits for its ACK.
        unacked: Option<(String, String)>,
        /// Hung up here; the BYE waits for that ACK (RFC 3261 §15).
        leaving: bool,
    },
}

pub(super) struct Line {
    pub(super) config: SoftphoneConfig,
    pub(super) local: SocketAddr,
    seed: u64,
    names: u64,
    pub(super) clients: BTreeMap<(String, String), Client>,
    pub(super) servers: BTreeMap<(String, String), Server>,
    pub(super) registration: Registration,
    pub(super) call: Call,
    /// The last challenge and how often it was answered: saves a round on every request.
    challenge: Option<(Challenge, u32)>,
    out: VecDeque<Bytes>,
    events: VecDeque<LineEvent>,
}

impl Line {
    /// `local`: our address as the node sees it. `seed`: random, so that tags and branches are unlike anyone else's.
    pub fn new(config: SoftphoneConfig, local: SocketAddr, seed: u64) -> Self {
        let mut this = Self {
            config,
            local,
            seed,
            names: 0,
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            registration: Registration::default(),
            call: Call::None,
            challenge: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
        };
        this.registration = Registration::new(this.name(), this.name());
        this
    }

    /// Drain to `None` after each call, as with `poll_event`.
    pub fn poll_send(&mut self) -> Option<Bytes> {
        self.out.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<LineEvent> {
        self.events.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let clients = self.clients.values().map(|client| client.resend.due());
        let servers = self
            .servers
            .values()
            .map(|server| server.resend.as_ref().map_or(server.until, |resend| resend.due().min(server.until)));
        clients.chain(servers).chain(self.registration.due).min()
    }

    /// Retransmits and gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let resends = self.clients.values_mut().map(|client| &mut client.resend);
        let resends = resends.chain(self.servers.values_mut().filter_map(|server| server.resend.as_mut()));
        self.out.extend(resends.filter_map(|resend| resend.take_due(now)));
        let over = |until: Instant| until <= now;
        let lost: Vec<_> =
            self.clients.iter().filter(|(_, client)| over(client.resend.until)).map(|(key, _)| key.clone()).collect();
        for key in lost {
            let Some(client) = self.clients.remove(&key) else { continue };
            if client.resend.is_settled() && client.ack.is_some() {
                continue;
            }
            match client.purpose {
                Purpose::Register => self.register_answered(408, None, now),
                Purpose::Invite(attempt) => self.invite_lost(&attempt, &key.0),
                Purpose::Farewell => {}
            }
        }
        let lost: Vec<_> =
            self.servers.iter().filter(|(_, server)| over(server.until)).map(|(key, _)| key.clone()).collect();
        for key in lost {
            self.servers.remove(&key);
            self.never_acked(&key, now);
        }
        if self.registration.due.is_some_and(over) {
            self.register(now);
        }
    }

    /// Whether nothing waits for an answer any more.
    pub fn is_quiet(&self) -> bool {
        let answered = self.clients.values().all(|client| client.ack.is_some());
        answered && self.servers.values().all(|server| server.resend.is_none())
    }

    /// Whether no call can be made or taken now.
    pub(super) fn is_full(&self) -> bool {
        self.clients.len().max(self.servers.len()) + 4 > MAX_TRANSACTIONS
    }

    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        let Some(message) = Message::parse(datagram) else { return };
        match &message.start {
            Start::Response { status, .. } => self.response(*status, &message, now),
            Start::Request { method, .. } => {
                let method = method.clone();
                self.request(&method, message, now);
            }
        }
    }

    fn response(&mut self, status: u16, message: &Message, now: Instant) {
        let (Some(branch), Some((_, method))) = (message.branch(), message.cseq()) else { return };
        let key = (branch.to_owned(), method.to_owned());
        let Some(client) = self.clients.get_mut(&key) else { return };
        if let (Some(ack), true) = (&client.ack, status >= 200) {
            self.out.push_back(ack.clone());
            return;
        }
        if let (100..200, Purpose::Register | Purpose::Farewell) = (status, &client.purpose) {
            client.resend.slow_down(now);
            return;
        }
        match client.purpose {
            Purpose::Invite(_) => self.invite_answered(&key, status, message, now),
            Purpose::Register => {
                self.clients.remove(&key);
                self.register_answered(status, Some(message), now);
            }
            Purpose::Farewell => {
                self.clients.remove(&key);
            }
        }
    }

    fn request(&mut self, method: &str, message: Message, now: Instant) {
        let Some(branch) = message.branch().map(str::to_owned) else { return };
        if method == "ACK" {
            return self.acked(&branch, &message, now);
        }
        let key = (branch, method.to_owned());
        if let Some(server) = self.servers.get(&key) {
            return self.out.push_back(server.answer.clone());
        }
        match method {
            "INVITE" if self.is_full() => self.answer_with(key, &message, (503, "Too Busy"), &[], None, now),
            "INVITE" if message.tag("To").is_none() => self.invited(key, message, now),
            "CANCEL" => self.cancelled(key, &message, now),
            "INVITE" | "BYE" | "UPDATE" | "INFO" => self.in_dialog(key, &message, now),
            "OPTIONS" => self.answer_with(key, &message, (200, "OK"), &[("Allow", ALLOW)], None, now),
            _ => self.answer_with(key, &message, (405, "Method Not Allowed"), &[("Allow", ALLOW)], None, now),
        }
    }

    /// Sends a response and keeps it for repeats; final ones to INVITE are repeated until their ACK (§17.2.1, §13.3.1.4).
    pub(super) fn answer_with(
        &mut self,
        key: (String, String),
        request: &Message,
        (status, words): (u16, &str),
        more: &[(&str, &str)],
        sdp: Option<&Bytes>,
        now: Instant,
    ) {
        let tag = self.tag_for(request);
        let answer = request.response(status, words, &tag, more, sdp);
        self.out.push_back(answer.clone());
        let invite = key.1 == "INVITE";
        let resend = (invite && status >= 200).then(|| Resend::new(answer.clone(), T2, now));
        let life = if invite && status < 200 { super::timers::RINGING + GIVE_UP } else { GIVE_UP };
        if self.servers.contains_key(&key) || self.servers.len() < MAX_TRANSACTIONS {
            self.servers.insert(key, Server { answer, resend, until: now + life });
        }
    }

    /// Our To tag: always the same for one call.
    fn tag_for(&self, request: &Message) -> String {
        let text = format!("{}/{}", request.call_id(), request.tag("From").unwrap_or_default());
        let sum = text
            .bytes()
            .fold(self.seed | 1, |sum, byte| sum.rotate_left(5).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(byte));
        format!("{sum:016x}")
    }

    /// Sends a request that waits for its answer.
    pub(super) fn send(&mut self, key: (String, String), bytes: Bytes, purpose: Purpose, now: Instant) {
        let slowest = if key.1 == "INVITE" { GIVE_UP } else { T2 };
        self.out.push_back(bytes.clone());
        if self.clients.len() < MAX_TRANSACTIONS {
            self.clients.insert(key, Client { purpose, resend: Resend::new(bytes, slowest, now), ack: None });
        }
    }

    /// Sends bytes once (ACK).
    pub(super) fn send_once(&mut self, bytes: Bytes) {
        self.out.push_back(bytes);
    }

    pub(super) fn tell(&mut self, event: LineEvent) {
        self.events.push_back(event);
    }

    pub(super) fn ended(&mut self, cause: Option<Cause>) {
        self.tell(LineEvent::Phone(PhoneEvent::Ended { cause }));
    }

    /// A request inside a dialog.
    pub(super) fn within(&self, dialog: &Dialog, method: &str, branch: &str, cseq: u32) -> Bytes {
        let request = Request {
            method,
            uri: &dialog.target,
            via: (&self.local.to_string(), branch),
            from: &dialog.local,
            to: &dialog.remote,
            call_id: &dialog.call_id,
            cseq,
        };
        let routes: Vec<(&str, &str)> = dialog.routes.iter().map(|route| ("Route", route.as_str())).collect();
        request.encode(&routes, None)
    }

    /// Sends BYE.
    pub(super) fn bye(&mut self, dialog: &Dialog, now: Instant) {
        let branch = self.branch();
        let bytes = self.within(dialog, "BYE", &branch, dialog.cseq + 1);
        self.send((branch, "BYE".to_owned()), bytes, Purpose::Farewell, now);
    }

    /// Ends whatever call there is; nothing more is heard of it.
    pub fn hang_up(&mut self, now: Instant) {
        match std::mem::replace(&mut self.call, Call::None) {
            Call::None => {}
            Call::Dialing(branch) => self.give_up(&branch, now),
            Call::Ringing(ringing) => self.refuse(*ringing, 603, now),
            Call::Up { dialog, unacked: None, .. } => self.bye(&dialog, now),
            Call::Up { dialog, sdp, unacked, .. } => self.call = Call::Up { dialog, sdp, unacked, leaving: true },
        }
    }

    /// Takes in a 401 or 407; whether there is a point in asking again.
    pub(super) fn challenged(&mut self, message: &Message, tries: u32) -> bool {
        let values = message.all("WWW-Authenticate").chain(message.all("Proxy-Authenticate"));
        let Some(challenge) = values.filter_map(Challenge::parse).next() else { return false };
        let again = tries == 0 || (challenge.stale && tries < 3);
        self.challenge = Some((challenge, 0));
        again
    }

    /// The Authorization for a request, when a challenge is known.
    pub(super) fn authorization(&mut self, method: &str, uri: &str) -> Option<String> {
        let cnonce = self.name();
        let (challenge, count) = self.challenge.as_mut()?;
        *count += 1;
        let (name, password) = (&self.config.account, &self.config.password);
        Some(authorization(challenge, name, password, method, uri, (*count, &cnonce)))
    }

    /// A name that was never used before.
    pub(super) fn name(&mut self) -> String {
        self.names += 1;
        format!("{:016x}{:x}", self.seed, self.names)
    }

    pub(super) fn branch(&mut self) -> String {
        format!("z9hG4bK{}", self.name())
    }

    /// `sip:account@node`.
    pub(super) fn own_uri(&self) -> String {
        format!("sip:{}@{}", self.config.account, self.config.server)
    }

    pub(super) fn contact(&self) -> String {
        format!("<sip:{}@{}>", self.config.account, self.local)
    }
}

/// Why, from Reason or else from the status line.
pub(super) fn cause_of(message: &Message) -> Option<Cause> {
    let reason = message.reason().map(|(status, words)| Cause { status, words });
    let line = match &message.start {
        Start::Response { status, words } => Some(Cause { status: *status, words: words.clone() }),
        Start::Request { .. } => None,
    };
    match (line, reason) {
        (Some(line), Some(reason)) if line.status == reason.status && !reason.words.is_empty() => Some(reason),
        (Some(line), _) => Some(line),
        (None, reason) => reason,
    }
}

/// How long before the end of a registration it is renewed.
pub(super) fn refresh_after(expires: Duration) -> Duration {
    expires / 2
}
