//! Whole calls in virtual time: scripted phones write SIP text, the core answers, the clock is moved by hand.

mod called;
mod calling;
mod hostile;
mod inside;
mod trunks;

use super::{Core, Effect, Settings};
use crate::clock::UnixMillis;
use crate::sip::counts::Counts;
use crate::sip::digest::{Challenge, authorization};
use crate::sip::flow::Flow;
use crate::sip::registrar::Registrar;
use crate::sip::{Account, Cause, ContactId, DialTarget, LegId, Presented, SipEvent, SipLimits, TrunkId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// A core with two accounts, `alice` and `bob` (password = name), and what it sent.
pub(super) struct World {
    pub core: Core,
    pub now: Instant,
    pub sent: Vec<(Flow, String)>,
    pub events: Vec<SipEvent>,
    branches: u64,
    nonces: u32,
}

pub(super) fn udp(port: u16) -> Flow {
    Flow::Udp { local: "10.0.0.1:5060".parse().expect("address"), remote: ([10, 0, 0, 9], port).into() }
}

pub(super) fn tcp(connection: u64) -> Flow {
    let local = "10.0.0.1:5060".parse().expect("address");
    Flow::Tcp { connection, local, remote: ([10, 0, 0, 9], 30_000).into() }
}

pub(super) fn cause(status: u16, words: &str) -> Cause {
    Cause { status, words: words.to_owned() }
}

pub(super) fn presented() -> Presented {
    Presented { uri: "sip:caller@peer.alt".into(), display: Some("Ca\"ll\r\ner".into()) }
}

/// The value of a header in a message text.
pub(super) fn header<'a>(text: &'a str, name: &str) -> &'a str {
    let prefix = format!("{name}: ");
    text.split("\r\n").find_map(|line| line.strip_prefix(prefix.as_str())).unwrap_or_default()
}

/// A response to a request of ours, with a To tag.
pub(super) fn reply(request: &str, status: &str, tag: &str, body: &str) -> String {
    let to = header(request, "To");
    let to = if tag.is_empty() || to.contains(";tag=") { to.to_owned() } else { format!("{to};tag={tag}") };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    format!(
        "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: <sip:bob@10.0.0.9:5099>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        header(request, "Via"),
        header(request, "From"),
        header(request, "Call-ID"),
        header(request, "CSeq"),
        body.len()
    )
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_legs(100)
    }

    pub(super) fn with_legs(max_legs: usize) -> Self {
        let now = Instant::now();
        let account =
            |name: &str| (name.to_owned(), Account { name: name.into(), password: name.into(), sha256: false });
        let accounts: Arc<BTreeMap<_, _>> = Arc::new(["alice", "bob"].map(account).into());
        let registrar =
            Registrar::new("peer.alt".into(), accounts, 5, Vec::new(), [7; 32], now, UnixMillis(1_800_000_000_000));
        let limits = SipLimits {
            max_legs,
            max_contacts_per_account: 5,
            max_tcp_connections: 10,
            requests_per_second: 100_000,
            request_burst: 1_000_000,
        };
        let settings = Settings { realm: "peer.alt".into(), limits, udp_port: Some(5060), key: [9; 32] };
        let core = Core::new(settings, registrar, Counts::default(), Arc::new(AtomicU64::new(1)), now);
        Self { core, now, sent: Vec::new(), events: Vec::new(), branches: 0, nonces: 0 }
    }

    pub(super) fn drain(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { flow, bytes } => {
                    self.sent.push((flow, String::from_utf8(bytes.to_vec()).expect("we write UTF-8")));
                }
                Effect::Event(event) => self.events.push(event),
                Effect::Close { .. } => {}
            }
        }
    }

    pub(super) fn receive(&mut self, flow: Flow, text: &str) {
        let raw = Bytes::from(text.to_owned());
        self.core.receive(flow, &raw, self.now, UnixMillis(1_800_000_000_000));
        self.drain();
    }

    /// A command.
    pub(super) fn tell(&mut self, command: impl FnOnce(&mut Core)) {
        command(self.core.at(self.now));
        self.drain();
    }

    /// Lets time pass, timer by timer.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now, UnixMillis(1_800_000_000_000));
            self.drain();
        }
        self.now = end;
    }

    /// Takes all that was sent.
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent).into_iter().map(|(_, text)| text).collect()
    }

    /// The one message that was sent since the last look.
    pub(super) fn one(&mut self) -> String {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }

    pub(super) fn event(&mut self) -> SipEvent {
        assert!(!self.events.is_empty(), "an event was expected; sent: {:#?}", self.sent);
        self.events.remove(0)
    }

    pub(super) fn quiet(&self) {
        assert!(self.events.is_empty() && self.sent.is_empty(), "{:#?} {:#?}", self.events, self.sent);
    }

    /// After enough time nothing may be left.
    pub(super) fn nothing_left(&mut self) {
        self.pass(Duration::from_secs(120));
        assert_eq!((self.core.leg_count(), self.core.transaction_count()), (0, 0));
        assert!(self.core.dialogs.is_empty() && self.core.merging.is_empty() && self.core.held.is_empty());
        assert!(self.core.server_ids.is_empty() && self.core.server_keys.is_empty() && self.core.client_ids.is_empty());
        assert!(self.core.trunks.values().all(|trunk| trunk.legs.is_empty()));
    }

    pub(super) fn branch(&mut self) -> String {
        self.branches += 1;
        format!("z9hG4bKtest{}", self.branches)
    }

    /// A request outside a dialog. `extra` are whole header lines.
    pub(super) fn request(
        &mut self,
        method: &str,
        uri: &str,
        call: &str,
        cseq: u32,
        extra: &str,
        body: &str,
    ) -> String {
        let branch = self.branch();
        let kind =
            if body.is_empty() || extra.contains("Content-Type:") { "" } else { "Content-Type: application/sdp\r\n" };
        let contact = if extra.contains("Contact:") { "" } else { "Contact: <sip:alice@192.168.1.7:5099>\r\n" };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.7:5099;rport;branch={branch}\r\nMax-Forwards: 70\r\n\
             From: \"Liar\" <sip:alice@peer.alt>;tag=ft-{call}\r\nTo: <{uri}>\r\nCall-ID: {call}\r\nCSeq: {cseq} {method}\r\n\
             {contact}{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Sends a request twice: for the challenge, then with the answer. Gives the second request's text.
    pub(super) fn authenticated(
        &mut self,
        flow: Flow,
        account: &str,
        (method, uri): (&str, &str),
        call: &str,
        extra: &str,
        body: &str,
    ) -> String {
        let plain = self
            .request(method, uri, call, 1, extra, body)
            .replace("sip:alice@peer.alt", &format!("sip:{account}@peer.alt"));
        let plain = if method == "REGISTER" {
            plain.replace(&format!("To: <{uri}>"), &format!("To: <sip:{account}@peer.alt>"))
        } else {
            plain
        };
        self.receive(flow, &plain);
        let challenge = self.one();
        assert!(challenge.starts_with("SIP/2.0 401 "), "{challenge}");
        let challenge = Challenge::parse(header(&challenge, "WWW-Authenticate")).expect("challenge");
        self.nonces += 1;
        let value = authorization(&challenge, account, account, method, uri, (1, "c0ffee"));
        let branch = self.branch();
        let old = header(&plain, "Via").rsplit('=').next().unwrap_or_default().to_owned();
        let again = plain
            .replace(&old, &branch)
            .replace(&format!("CSeq: 1 {method}"), &format!("CSeq: 2 {method}"))
            .replace("Max-Forwards", &format!("Authorization: {value}\r\nMax-Forwards"));
        self.receive(flow, &again);
        again
    }

    /// A registered phone.
    pub(super) fn register(&mut self, flow: Flow, account: &str) -> ContactId {
        if let Flow::Tcp { connection, .. } = flow {
            self.core.connection_opened(connection, flow);
        }
        let call = format!("reg-{account}-{}", self.branches);
        let contact = format!("Contact: <sip:{account}@192.168.1.7:5099>;expires=600\r\n");
        let port = self.branches;
        let contact = contact.replace("5099", &format!("{}", 6_000 + port));
        self.authenticated(flow, account, ("REGISTER", "sip:peer.alt"), &call, &contact, "");
        let SipEvent::Contacts { bind: Some(bind), contacts, .. } = self.event() else { panic!("no bind") };
        self.tell(|core| core.confirm_bind(bind, true));
        assert!(self.one().starts_with("SIP/2.0 200 "));
        contacts[contacts.len() - 1]
    }

    /// A call from alice's phone up to the `Invited` event; 100 has been taken.
    pub(super) fn invited(&mut self, flow: Flow, call: &str) -> (LegId, String) {
        if let Flow::Tcp { connection, .. } = flow {
            self.core.connection_opened(connection, flow);
        }
        let text = self.authenticated(flow, "alice", ("INVITE", "sip:bob@peer.alt"), call, "", SDP);
        assert!(self.one().starts_with("SIP/2.0 100 "));
        let SipEvent::Invited { leg, .. } = self.event() else { panic!("no call") };
        (leg, text)
    }

    /// A request of the far end inside the dialog that `ours` (a request or response of ours) shows.
    pub(super) fn inside(&mut self, method: &str, response: &str, cseq: u32, extra: &str, body: &str) -> String {
        let branch = self.branch();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} sip:peerline@10.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.7:5099;branch={branch}\r\nFrom: {}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:alice@192.168.1.7:5099>\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            header(response, "From"),
            header(response, "To"),
            header(response, "Call-ID"),
            body.len()
        )
    }

    /// An established call from alice's phone; gives the 200.
    pub(super) fn established(&mut self, flow: Flow, call: &str) -> (LegId, String) {
        let (leg, _) = self.invited(flow, call);
        self.tell(|core| core.answer(leg, &Bytes::from(SDP), None));
        let ok = self.one();
        let ack = self.inside("ACK", &ok, 2, "", "");
        self.receive(flow, &ack);
        self.quiet();
        (leg, ok)
    }

    /// An INVITE to bob's phone; gives it.
    pub(super) fn dialled(&mut self, flow: Flow) -> (LegId, String) {
        let contact = self.register(flow, "bob");
        let leg = self.core.new_leg_id();
        self.tell(|core| {
            core.dial(leg, &DialTarget::Contact(contact), &presented(), "sip:bob@peer.alt", &Bytes::from(SDP));
        });
        (leg, self.one())
    }

    pub(super) fn trunk(&mut self, trunk: u64, local: &str, remote: &str) {
        self.tell(|core| core.trunk_up(TrunkId(trunk), local, remote));
    }
}
