//! RFC 3261 §13.3, §9.2: INVITE from a phone.

use super::*;
use crate::sip::Caller;

fn ok_sdp() -> Bytes {
    Bytes::from(SDP)
}

#[test]
fn a_phone_calls_rings_talks_and_hangs_up() {
    let mut w = World::new();
    let flow = udp(40_000);
    let text = w.authenticated(flow, "alice", ("INVITE", "sip:bob@peer.alt"), "c1", "", SDP);
    let trying = w.one();
    assert!(trying.starts_with("SIP/2.0 100 Trying"), "{trying}");
    assert!(trying.contains("received=10.0.0.9;rport=40000"), "{trying}");
    let SipEvent::Invited { leg, caller, dialled, display, offer } = w.event() else { panic!("no call") };
    assert_eq!(offer, SDP.as_bytes());
    assert_eq!((dialled.as_str(), display.as_deref()), ("bob", Some("Liar")));
    let ips = ("10.0.0.1".parse().expect("ip"), "10.0.0.9".parse().expect("ip"));
    assert_eq!(caller, Caller::Phone { account: "alice".into(), local_ip: ips.0, remote_ip: ips.1 });
    // A repeat is absorbed.
    w.receive(flow, &text);
    assert!(w.one().starts_with("SIP/2.0 100 "));
    assert!(w.events.is_empty());
    w.tell(|core| core.ring(leg, 180, None));
    assert!(w.one().starts_with("SIP/2.0 180 Ringing"));
    w.tell(|core| core.answer(leg, &ok_sdp(), Some(&presented())));
    let ok = w.one();
    assert!(ok.starts_with("SIP/2.0 200 OK") && ok.ends_with(SDP), "{ok}");
    assert!(ok.contains("Contact: <sip:peerline@10.0.0.1:5060>\r\n"), "{ok}");
    assert!(ok.contains("P-Asserted-Identity: \"Ca\\\"ller\" <sip:caller@peer.alt>\r\n"), "{ok}");
    // §13.3.1.4: the 200 is repeated until the ACK.
    w.pass(Duration::from_millis(1_600));
    assert_eq!(w.take().len(), 2);
    let ack = w.inside("ACK", &ok, 2, "", "");
    w.receive(flow, &ack);
    w.pass(Duration::from_secs(60));
    w.quiet();
    assert_eq!(w.core.leg_count(), 1);
    let bye = w.inside("BYE", &ok, 3, "Reason: SIP;cause=200;text=\"bye, bye\"\r\n", "");
    w.receive(flow, &bye);
    assert!(w.one().starts_with("SIP/2.0 200 "));
    let SipEvent::Ended { leg: ended, cause: why } = w.event() else { panic!("no end") };
    assert_eq!((ended, why), (leg, Some(cause(200, "bye, bye"))));
    // The 200 was lost: the same answer again, not 481.
    w.receive(flow, &bye);
    assert!(w.one().starts_with("SIP/2.0 200 "));
    w.nothing_left();
}

#[test]
fn we_hang_up_with_a_reason() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, _) = w.established(flow, "c1");
    w.tell(|core| core.hang_up(leg, cause(200, "Call \"completed\"\r\nX: y")));
    let bye = w.one();
    assert!(bye.starts_with("BYE sip:alice@192.168.1.7:5099 SIP/2.0\r\n"), "{bye}");
    assert!(bye.contains("Reason: SIP;cause=200;text=\"Call \\\"completed\\\"X: y\"\r\n"), "{bye}");
    assert!(
        bye.contains("From: <sip:bob@peer.alt>;tag=") && bye.contains("To: \"Liar\" <sip:alice@peer.alt>;tag=ft-c1")
    );
    w.receive(flow, &reply(&bye, "200 OK", "", ""));
    w.nothing_left();
    w.quiet();
}

#[test]
fn refusals_carry_their_words_and_wait_for_the_ack() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, invite) = w.invited(flow, "c1");
    w.tell(|core| core.reject(leg, &cause(486, "In Another Call")));
    let busy = w.one();
    assert!(busy.starts_with("SIP/2.0 486 In Another Call\r\n"), "{busy}");
    assert_eq!(w.core.leg_count(), 0);
    w.pass(Duration::from_millis(500));
    assert_eq!(w.one(), busy);
    let ack = invite
        .replace("INVITE", "ACK")
        .replace(SDP, "")
        .replace(&format!("Content-Length: {}", SDP.len()), "Content-Length: 0");
    let ack = ack.replace("To: <sip:bob@peer.alt>", &format!("To: {}", header(&busy, "To")));
    w.receive(flow, &ack);
    w.nothing_left();
    w.quiet();
}

#[test]
fn cancel_ends_a_ringing_call_and_nothing_else() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, invite) = w.invited(flow, "c1");
    w.tell(|core| core.ring(leg, 180, None));
    w.take();
    let cancel = invite
        .replace("INVITE", "CANCEL")
        .replace(SDP, "")
        .replace(&format!("Content-Length: {}", SDP.len()), "Reason: SIP;cause=486\r\nContent-Length: 0");
    w.receive(flow, &cancel);
    let sent = w.take();
    assert!(sent[0].starts_with("SIP/2.0 200 ") && header(&sent[0], "CSeq") == "2 CANCEL", "{sent:#?}");
    assert!(sent[1].starts_with("SIP/2.0 487 ") && header(&sent[1], "CSeq") == "2 INVITE", "{sent:#?}");
    let SipEvent::Ended { leg: ended, cause: why } = w.event() else { panic!("no end") };
    assert_eq!((ended, why), (leg, Some(cause(486, ""))));
    // The same CANCEL again: 200, and no second end. What comes too late from above is ignored.
    w.receive(flow, &cancel);
    assert!(w.one().starts_with("SIP/2.0 200 "));
    w.tell(|core| core.answer(leg, &ok_sdp(), None));
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    w.quiet();
    w.nothing_left();

    // After the 200 a CANCEL changes nothing (§9.2).
    let mut w = World::new();
    let (leg, invite) = w.invited(flow, "c2");
    w.tell(|core| core.answer(leg, &ok_sdp(), None));
    w.take();
    w.receive(
        flow,
        &invite
            .replace("INVITE", "CANCEL")
            .replace(SDP, "")
            .replace(&format!("Content-Length: {}", SDP.len()), "Content-Length: 0"),
    );
    assert!(w.one().starts_with("SIP/2.0 200 "));
    assert!(w.events.is_empty() && w.core.leg_count() == 1);
    // A CANCEL of nothing.
    let stray = w.request("CANCEL", "sip:x@peer.alt", "c9", 1, "", "");
    w.receive(flow, &stray);
    assert!(w.one().starts_with("SIP/2.0 481 "));
}

#[test]
fn a_2xx_without_ack_ends_in_bye_after_32_s() {
    let mut w = World::new();
    let (leg, _) = w.invited(udp(40_000), "c1");
    w.tell(|core| core.answer(leg, &ok_sdp(), None));
    w.take();
    w.pass(Duration::from_secs(31));
    assert!(w.take().iter().all(|text| text.starts_with("SIP/2.0 200 ")));
    w.pass(Duration::from_secs(2));
    assert!(w.take().iter().any(|text| text.starts_with("BYE ")));
    assert!(matches!(w.event(), SipEvent::Ended { cause: Some(Cause { status: 408, .. }), .. }));
    w.nothing_left();
}

#[test]
fn hanging_up_before_the_ack_waits_for_it() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, _) = w.invited(flow, "c1");
    w.tell(|core| core.answer(leg, &ok_sdp(), None));
    let ok = w.one();
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    w.quiet();
    let ack = w.inside("ACK", &ok, 2, "", "");
    w.receive(flow, &ack);
    assert!(w.one().starts_with("BYE "));
    w.nothing_left();
    assert!(w.events.is_empty());
}

#[test]
fn what_cannot_be_served_says_why() {
    let mut w = World::new();
    let flow = udp(40_000);
    let mut answer_to = |method: &str, extra: &str, body: &str| {
        let text = w.request(method, "sip:bob@peer.alt", "cx", 1, extra, body);
        w.receive(flow, &text);
        w.take().pop().unwrap_or_default()
    };
    assert!(answer_to("FROB", "", "").contains("405 Method Not Allowed"));
    assert!(answer_to("FROB", "", "").contains("\r\nAllow: INVITE"));
    assert!(answer_to("MESSAGE", "", "").contains("\r\nAllow: INVITE"));
    assert!(answer_to("INVITE", "Require: 100rel, frob\r\n", SDP).contains("\r\nUnsupported: 100rel, frob\r\n"));
    let options = answer_to("OPTIONS", "", "");
    assert!(options.starts_with("SIP/2.0 200 ") && options.contains("\r\nAccept: application/sdp\r\n"), "{options}");
    assert!(answer_to("BYE", "", "").starts_with("SIP/2.0 481 "));
    assert!(answer_to("INVITE", "", SDP).starts_with("SIP/2.0 401 "));
    assert_eq!(answer_to("ACK", "", ""), "");
    let looping = w.request("INVITE", "sip:bob@peer.alt", "c1", 1, "", SDP).replace("Forwards: 70", "Forwards: 0");
    w.receive(flow, &looping);
    assert!(w.one().starts_with("SIP/2.0 483 "));
    w.authenticated(flow, "alice", ("INVITE", "sip:bob@peer.alt"), "c2", "", "");
    assert!(w.one().starts_with("SIP/2.0 488 An Offer Is Needed"));
    w.authenticated(flow, "alice", ("INVITE", "http:bob"), "c3", "", SDP);
    assert!(w.one().starts_with("SIP/2.0 416 "));
    w.authenticated(flow, "alice", ("INVITE", "sip:bob@peer.alt"), "c4", "Content-Type: text/html\r\n", SDP);
    assert!(w.one().starts_with("SIP/2.0 415 "));
    w.nothing_left();
    w.quiet();
}

#[test]
fn a_full_node_says_503_and_a_merged_request_482() {
    let mut w = World::with_legs(1);
    let flow = udp(40_000);
    let (_, invite) = w.invited(flow, "c1");
    let merged = invite.replace("branch=z9hG4bKtest", "branch=z9hG4bKother");
    w.receive(flow, &merged);
    // The nonce count was used already, or the loop is seen: never a second call.
    let answer = w.one();
    assert!(answer.starts_with("SIP/2.0 482 ") || answer.starts_with("SIP/2.0 401 "), "{answer}");
    w.authenticated(flow, "alice", ("INVITE", "sip:bob@peer.alt"), "c2", "", SDP);
    let full = w.one();
    assert!(full.starts_with("SIP/2.0 503 ") && full.contains("Retry-After: 10"), "{full}");
    assert!(w.events.is_empty());
}
