//! The phone against a scripted node in virtual time, and against the real one over loopback.

use super::line::{Line, LineEvent};
use super::message::{Message, Start};
use super::outgoing::dialled;
use super::timers::{GIVE_UP, T1};
use super::*;

mod with_node;

const SDP: &[u8] = b"v=0\r\n";
const CHALLENGE: &str = "Digest realm=\"r\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";

struct Bench {
    line: Line,
    now: Instant,
    number: u32,
}

fn config() -> SoftphoneConfig {
    SoftphoneConfig {
        server: "127.0.0.1:5070".parse().unwrap(),
        account: "anna".to_owned(),
        password: "pw".to_owned(),
        display: Some("Anna \"A\" B".to_owned()),
    }
}

fn sdp() -> Bytes {
    Bytes::from_static(SDP)
}

impl Bench {
    fn new() -> Self {
        Self { line: Line::new(config(), "127.0.0.1:40000".parse().unwrap(), 7), now: Instant::now(), number: 0 }
    }

    fn registered() -> Self {
        let mut this = Self::new();
        this.line.register(this.now);
        let request = this.sent("REGISTER");
        this.reply(&request, 200, &[("Contact", "<sip:anna@127.0.0.1:40000>;expires=600")]);
        assert!(matches!(this.line.poll_event(), Some(LineEvent::Registered)));
        this
    }

    /// The next thing that the phone sends.
    fn next(&mut self) -> Option<Message> {
        self.line.poll_send().map(|bytes| Message::parse(&bytes).expect("well formed"))
    }

    fn sent(&mut self, what: &str) -> Message {
        let message = self.next().unwrap_or_else(|| panic!("no {what}"));
        let is = match &message.start {
            Start::Request { method, .. } => method.clone(),
            Start::Response { status, .. } => status.to_string(),
        };
        assert_eq!(is, what);
        message
    }

    fn nothing_sent(&mut self) {
        assert_eq!(self.next(), None);
    }

    fn reply(&mut self, request: &Message, status: u16, more: &[(&str, &str)]) {
        self.reply_with(request, status, more, None);
    }

    fn reply_with(&mut self, request: &Message, status: u16, more: &[(&str, &str)], body: Option<&Bytes>) {
        let bytes = request.response(status, "Words", "node", more, body);
        self.line.handle_datagram(&bytes, self.now);
    }

    fn event(&mut self) -> PhoneEvent {
        match self.line.poll_event() {
            Some(LineEvent::Phone(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    fn no_event(&mut self) {
        assert!(self.line.poll_event().is_none());
    }

    /// Time passes up to `end`, with each timer in between.
    fn pass(&mut self, length: Duration) -> usize {
        let end = self.now + length;
        let mut sent = 0;
        while let Some(due) = self.line.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.line.handle_timeout(self.now);
            while self.line.poll_send().is_some() {
                sent += 1;
            }
        }
        self.now = end;
        sent
    }

    /// A request from the node: in the dialog of `tag` when there is one.
    fn node_asks(&mut self, method: &str, branch: &str, tag: Option<&str>, body: bool) {
        self.number += 1;
        let tag = tag.map(|tag| format!(";tag={tag}")).unwrap_or_default();
        let body = if body { "Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n" } else { "\r\n" };
        let number = if method == "ACK" || method == "CANCEL" { self.number - 1 } else { self.number };
        let text = format!(
            "{method} sip:anna@127.0.0.1:40000 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch={branch}\r\n\
             From: \"Ben \\\"B\\\"\" <sip:ben@peerline.alt>;tag=f\r\nTo: <sip:anna@x>{tag}\r\nCall-ID: c1\r\n\
             CSeq: {number} {method}\r\nContact: <sip:node@127.0.0.1:5070>\r\n\
             Reason: Q.850;cause=16, SIP;cause=200;text=\"answered elsewhere\"\r\n{body}"
        );
        self.line.handle_datagram(text.as_bytes(), self.now);
    }
}

fn header(message: &Message, name: &str) -> String {
    message.get(name).unwrap_or_default().to_owned()
}

#[test]
fn registers_with_digest_and_renews_half_way() {
    let mut bench = Bench::new();
    bench.line.register(bench.now);
    let first = bench.sent("REGISTER");
    assert_eq!(first.get("Authorization"), None);
    bench.reply(&first, 401, &[("WWW-Authenticate", CHALLENGE)]);
    let second = bench.sent("REGISTER");
    assert!(header(&second, "Authorization").contains("nc=00000001"));
    assert_eq!(second.cseq().unwrap().0, first.cseq().unwrap().0 + 1);
    assert_eq!(second.call_id(), first.call_id());
    bench.reply(
        &second,
        200,
        &[("Contact", "<sip:anna@10.0.0.1:1>;expires=9, <sip:anna@127.0.0.1:40000>;expires=600")],
    );
    assert!(matches!(bench.line.poll_event(), Some(LineEvent::Registered)));
    assert!(bench.line.is_quiet());
    let due = bench.line.poll_timeout().unwrap();
    assert!(due >= bench.now + Duration::from_secs(4) && due <= bench.now + Duration::from_secs(300));
    bench.now = due;
    bench.line.handle_timeout(due);
    let third = bench.sent("REGISTER");
    assert!(header(&third, "Authorization").contains("nc=00000002"));
}

#[test]
fn a_wrong_password_is_told_once() {
    let mut bench = Bench::new();
    bench.line.register(bench.now);
    for _ in 0..2 {
        let request = bench.sent("REGISTER");
        bench.reply(&request, 401, &[("WWW-Authenticate", CHALLENGE)]);
    }
    assert!(matches!(bench.line.poll_event(), Some(LineEvent::NotRegistered(401))));
    bench.nothing_sent();
}

#[test]
fn a_stale_nonce_is_replaced() {
    let mut bench = Bench::new();
    bench.line.register(bench.now);
    let request = bench.sent("REGISTER");
    bench.reply(&request, 401, &[("WWW-Authenticate", CHALLENGE)]);
    let request = bench.sent("REGISTER");
    let stale = CHALLENGE.replace("n1", "n2") + ", stale=true";
    bench.reply(&request, 401, &[("WWW-Authenticate", &stale)]);
    let request = bench.sent("REGISTER");
    assert!(header(&request, "Authorization").contains("nonce=\"n2\""));
}

#[test]
fn asks_again_when_the_node_is_away_and_for_longer_when_it_says_so() {
    let mut bench = Bench::new();
    bench.line.register(bench.now);
    let request = bench.sent("REGISTER");
    bench.reply(&request, 423, &[("Min-Expires", "1800")]);
    let request = bench.sent("REGISTER");
    assert_eq!(request.get("Expires"), Some("1800"));
    // 0.5, 1, 2, 4, 4 ... up to 32 s: ten retransmissions.
    assert_eq!(bench.pass(GIVE_UP), 10);
    assert!(matches!(bench.line.poll_event(), Some(LineEvent::NotRegistered(408))));
    bench.pass(Duration::from_secs(2));
    bench.reply(&request, 200, &[]);
    bench.no_event();
}

#[test]
fn calls_rings_and_hangs_up() {
    let mut bench = Bench::registered();
    bench.line.dial("12", sdp(), bench.now);
    let invite = bench.sent("INVITE");
    assert_eq!(invite.start, Start::Request { method: "INVITE".to_owned(), uri: "sip:12@127.0.0.1:5070".to_owned() });
    assert_eq!(invite.display().as_deref(), Some("Anna \"A\" B"));
    bench.reply(&invite, 100, &[]);
    bench.no_event();
    bench.reply(&invite, 401, &[("WWW-Authenticate", CHALLENGE)]);
    assert_eq!(bench.sent("ACK").branch(), invite.branch());
    let invite = bench.sent("INVITE");
    assert!(header(&invite, "Authorization").contains("uri=\"sip:12@127.0.0.1:5070\""));
    bench.reply(&invite, 180, &[]);
    assert!(matches!(bench.event(), PhoneEvent::Ringing { status: 180, sdp: None }));
    let routes =
        [("Contact", "<sip:node@127.0.0.1:5070>"), ("Record-Route", "<sip:a;lr>"), ("Record-Route", "<sip:b;lr>")];
    for _ in 0..2 {
        bench.reply_with(&invite, 200, &routes, Some(&sdp()));
        let ack = bench.sent("ACK");
        assert_eq!(ack.cseq().unwrap().0, invite.cseq().unwrap().0);
        assert_eq!(ack.all("Route").collect::<Vec<_>>(), ["<sip:b;lr>", "<sip:a;lr>"]);
    }
    assert!(matches!(bench.event(), PhoneEvent::Answered { sdp } if sdp == SDP));
    bench.no_event();
    bench.line.hang_up(bench.now);
    let bye = bench.sent("BYE");
    assert_eq!(bye.start, Start::Request { method: "BYE".to_owned(), uri: "sip:node@127.0.0.1:5070".to_owned() });
    assert!(bye.cseq().unwrap().0 > invite.cseq().unwrap().0 && bye.tag("To") == Some("node"));
    assert!(!bench.line.is_quiet());
    bench.reply(&bye, 200, &[]);
    assert!(bench.line.is_quiet());
    bench.no_event();
    bench.pass(GIVE_UP);
    assert!(bench.line.clients.is_empty());
}

#[test]
fn a_refusal_is_told_with_the_nodes_words() {
    let mut bench = Bench::registered();
    bench.line.dial("nobody", sdp(), bench.now);
    let invite = bench.sent("INVITE");
    for _ in 0..2 {
        bench.reply(&invite, 486, &[("Reason", "SIP;cause=486;text=\"in another call\"")]);
        assert_eq!(bench.sent("ACK").branch(), invite.branch());
    }
    assert!(
        matches!(bench.event(), PhoneEvent::Failed { cause } if cause.status == 486 && cause.words == "in another call")
    );
    bench.no_event();
    bench.line.dial("other", sdp(), bench.now);
    bench.sent("INVITE");
}

#[test]
fn hanging_up_while_it_rings_cancels() {
    let mut bench = Bench::registered();
    bench.line.dial("12", sdp(), bench.now);
    let invite = bench.sent("INVITE");
    // Too early for CANCEL (§9.1).
    bench.line.hang_up(bench.now);
    bench.nothing_sent();
    bench.reply(&invite, 180, &[]);
    let cancel = bench.sent("CANCEL");
    assert_eq!((cancel.branch(), cancel.cseq().unwrap().0), (invite.branch(), invite.cseq().unwrap().0));
    bench.reply(&cancel, 200, &[]);
    bench.reply(&invite, 487, &[]);
    bench.sent("ACK");
    bench.no_event();
    assert!(bench.line.is_quiet());
}

#[test]
fn an_answer_that_crosses_the_cancel_is_hung_up() {
    let mut bench = Bench::registered();
    bench.line.dial("12", sdp(), bench.now);
    let invite = bench.sent("INVITE");
    bench.reply(&invite, 180, &[]);
    bench.event();
    bench.line.hang_up(bench.now);
    bench.sent("CANCEL");
    bench.reply_with(&invite, 200, &[("Contact", "<sip:node@127.0.0.1>")], Some(&sdp()));
    bench.sent("ACK");
    bench.sent("BYE");
    bench.no_event();
}

#[test]
fn an_unanswered_invite_is_repeated_and_given_up() {
    let mut bench = Bench::registered();
    bench.line.dial("12", sdp(), bench.now);
    bench.sent("INVITE");
    // 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 s.
    assert_eq!(bench.pass(GIVE_UP), 6);
    assert!(matches!(bench.event(), PhoneEvent::Failed { cause } if cause.status == 408));
    assert!(matches!(bench.line.call, super::line::Call::None));
}

fn called(bench: &mut Bench) {
    bench.node_asks("INVITE", "z1", None, true);
    bench.sent("100");
    let event = bench.event();
    let PhoneEvent::Incoming { from, display, offer } = event else { panic!("{event:?}") };
    assert_eq!((from.as_str(), display.as_deref(), &offer[..]), ("sip:ben@peerline.alt", Some("Ben \"B\""), SDP));
}

/// Called and answered; our tag.
fn talking(bench: &mut Bench) -> String {
    called(bench);
    bench.line.ring(bench.now);
    let tag = bench.sent("180").tag("To").unwrap().to_owned();
    bench.line.answer(sdp(), bench.now);
    let answer = bench.sent("200");
    assert_eq!((answer.tag("To"), answer.sdp()), (Some(tag.as_str()), Some(sdp())));
    assert_eq!(bench.pass(T1), 1);
    bench.number += 1;
    bench.node_asks("ACK", "z2", Some(&tag), false);
    bench.number -= 1;
    tag
}

#[test]
fn answers_a_call_and_is_hung_up() {
    let mut bench = Bench::registered();
    let tag = talking(&mut bench);
    bench.node_asks("INVITE", "z1", None, true);
    bench.sent("200");
    bench.node_asks("INVITE", "other", None, true);
    bench.sent("486");
    bench.number = 10;
    bench.node_asks("INVITE", "z3", Some(&tag), true);
    assert_eq!(bench.sent("200").sdp(), Some(sdp()));
    bench.number += 1;
    bench.node_asks("ACK", "z4", Some(&tag), false);
    bench.node_asks("INFO", "z5", Some(&tag), false);
    bench.sent("200");
    for _ in 0..2 {
        bench.node_asks("BYE", "z6", Some(&tag), false);
        bench.sent("200");
    }
    let event = bench.event();
    assert!(
        matches!(event, PhoneEvent::Ended { cause: Some(cause) } if cause.status == 200 && cause.words == "answered elsewhere")
    );
    bench.no_event();
    bench.node_asks("BYE", "z7", Some(&tag), false);
    bench.sent("481");
    bench.pass(GIVE_UP);
    assert!(bench.line.servers.is_empty());
}

#[test]
fn is_cancelled_while_it_rings() {
    let mut bench = Bench::registered();
    called(&mut bench);
    bench.number += 1;
    bench.node_asks("CANCEL", "z1", None, false);
    bench.sent("200");
    bench.sent("487");
    assert!(matches!(bench.event(), PhoneEvent::Ended { cause: Some(_) }));
    // Too late: nothing happens.
    bench.line.answer(sdp(), bench.now);
    bench.nothing_sent();
    bench.node_asks("ACK", "z1", None, false);
    assert_eq!(bench.pass(Duration::from_secs(5)), 0);
    bench.node_asks("CANCEL", "unknown", None, false);
    bench.sent("481");
}

#[test]
fn a_lost_ack_ends_the_call() {
    let mut bench = Bench::registered();
    called(&mut bench);
    bench.line.answer(sdp(), bench.now);
    bench.sent("200");
    // Ten repeats of the 200, then BYE and its first repeat is later.
    assert_eq!(bench.pass(GIVE_UP), 11);
    assert!(matches!(bench.event(), PhoneEvent::Ended { cause: Some(cause) } if cause.status == 408));
}

#[test]
fn hanging_up_before_the_ack_waits_for_it() {
    let mut bench = Bench::registered();
    called(&mut bench);
    bench.line.answer(sdp(), bench.now);
    let tag = bench.sent("200").tag("To").unwrap().to_owned();
    bench.line.hang_up(bench.now);
    bench.nothing_sent();
    bench.number += 1;
    bench.node_asks("ACK", "z9", Some(&tag), false);
    bench.sent("BYE");
    bench.no_event();
}

#[test]
fn rejects_until_acknowledged() {
    for (status, expected) in [(486, "486"), (200, "603"), (480, "480")] {
        let mut bench = Bench::registered();
        called(&mut bench);
        bench.line.reject(status, bench.now);
        bench.sent(expected);
        assert_eq!(bench.pass(T1), 1);
        bench.number += 1;
        bench.node_asks("ACK", "z1", None, false);
        assert_eq!(bench.pass(Duration::from_secs(30)), 0);
        bench.no_event();
    }
}

#[test]
fn answers_questions_outside_calls() {
    let mut bench = Bench::registered();
    for (method, status) in [("OPTIONS", "200"), ("MESSAGE", "405"), ("BYE", "481"), ("UPDATE", "481")] {
        bench.node_asks(method, method, None, false);
        bench.sent(status);
    }
}

#[test]
fn dials_what_people_type() {
    for (who, uri) in [
        ("echo", "sip:echo@127.0.0.1:5070"),
        ("tel:+4930", "sip:+4930@127.0.0.1:5070"),
        ("abcde fghij", "sip:abcde%20fghij@127.0.0.1:5070"),
        ("*5#", "sip:*5%23@127.0.0.1:5070"),
        ("sip:mum@peerline.alt", "sip:mum@peerline.alt"),
        ("SIP:mum", "sip:mum@127.0.0.1:5070"),
        ("a>b\r\n@h\r\n", "sip:a%3Eb%0D%0A@h"),
    ] {
        assert_eq!(dialled(who, &config()), uri);
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes: Vec<u8>) {
        let mut bench = Bench::registered();
        bench.line.handle_datagram(&bytes, bench.now);
    }

    #[test]
    fn a_damaged_message_never_panics(at in 0_usize..600, byte: u8, cut in 0_usize..600, kind in 0_usize..3) {
        let mut bench = Bench::registered();
        bench.line.dial("12", sdp(), bench.now);
        let invite = bench.sent("INVITE");
        let mut bytes = invite.response([180, 200, 486][kind], "Words", "node", &[("Contact", "<sip:n@h>"), ("Reason", "SIP;cause=1")], Some(&sdp())).to_vec();
        if let Some(target) = bytes.get_mut(at) {
            *target = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut / 4));
        bench.line.handle_datagram(&bytes, bench.now);
        bench.line.hang_up(bench.now);
        bench.pass(Duration::from_secs(400));
    }
}
