//! RFC 3261 §13.2, §9.1: INVITE to a phone.

use super::*;

#[test]
fn a_phone_is_called_answers_and_hangs_up() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, invite) = w.dialled(flow);
    assert!(invite.starts_with("INVITE sip:bob@192.168.1.7:6"), "{invite}");
    assert!(invite.contains("From: \"Ca\\\"ller\" <sip:caller@peer.alt>;tag="), "{invite}");
    assert!(invite.contains("P-Asserted-Identity: \"Ca\\\"ller\" <sip:caller@peer.alt>\r\n"), "{invite}");
    assert!(invite.contains("To: <sip:bob@peer.alt>\r\n") && invite.ends_with(SDP), "{invite}");
    w.receive(flow, &reply(&invite, "100 Trying", "", ""));
    w.receive(flow, &reply(&invite, "180 Ringing", "bt", ""));
    assert!(matches!(w.event(), SipEvent::Progress { status: 180, sdp: None, .. }));
    w.receive(flow, &reply(&invite, "200 OK", "bt", SDP));
    let ack = w.one();
    assert!(ack.starts_with("ACK sip:bob@10.0.0.9:5099 SIP/2.0\r\n") && ack.contains(";tag=bt\r\n"), "{ack}");
    assert!(matches!(w.event(), SipEvent::Answered { leg: up, .. } if up == leg));
    // The ACK was lost: the 200 comes again and has the same ACK.
    w.receive(flow, &reply(&invite, "200 OK", "bt", SDP));
    assert_eq!(w.one(), ack);
    // A fork answered as well: ACK and BYE.
    w.receive(flow, &reply(&invite, "200 OK", "other", SDP));
    let sent = w.take();
    assert!(sent[0].starts_with("ACK ") && sent[0].contains(";tag=other"), "{sent:#?}");
    assert!(sent[1].starts_with("BYE ") && sent[1].contains(";tag=other"), "{sent:#?}");
    w.receive(flow, &reply(&sent[1], "200 OK", "", ""));
    let bye = format!(
        "BYE sip:peerline@10.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKb\r\nFrom: {};tag=bt\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 BYE\r\n\r\n",
        header(&invite, "To"),
        header(&invite, "From"),
        header(&invite, "Call-ID")
    );
    w.receive(flow, &bye);
    assert!(w.one().starts_with("SIP/2.0 200 "));
    assert!(matches!(w.event(), SipEvent::Ended { leg: ended, cause: None } if ended == leg));
    w.nothing_left();
    w.quiet();
}

#[test]
fn a_refusal_is_acknowledged_each_time_and_told_once() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, invite) = w.dialled(flow);
    w.receive(flow, &reply(&invite, "603 Decline", "bt", ""));
    let ack = w.one();
    assert!(ack.starts_with("ACK sip:bob@192.168.1.7:6") && header(&ack, "CSeq") == "1 ACK", "{ack}");
    assert_eq!(header(&ack, "Via"), header(&invite, "Via"));
    let SipEvent::Failed { leg: failed, cause: why } = w.event() else { panic!("no failure") };
    assert_eq!((failed, why), (leg, cause(603, "Decline")));
    w.receive(flow, &reply(&invite, "603 Decline", "bt", ""));
    assert_eq!(w.one(), ack);
    w.nothing_left();
    w.quiet();
}

#[test]
fn cancel_waits_for_a_provisional_response() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, invite) = w.dialled(flow);
    w.tell(|core| core.hang_up(leg, cause(200, "Call completed elsewhere")));
    w.quiet();
    w.receive(flow, &reply(&invite, "180 Ringing", "bt", ""));
    let cancel = w.one();
    assert!(cancel.starts_with("CANCEL sip:bob@192.168.1.7:6"), "{cancel}");
    assert_eq!(header(&cancel, "Reason"), "SIP;cause=200;text=\"Call completed elsewhere\"");
    assert_eq!(header(&cancel, "Via"), header(&invite, "Via"));
    w.receive(flow, &reply(&cancel, "200 OK", "bt", ""));
    w.receive(flow, &reply(&invite, "487 Request Terminated", "bt", ""));
    assert!(w.one().starts_with("ACK "));
    assert!(w.events.is_empty());
    w.nothing_left();
}

#[test]
fn a_200_that_crosses_our_cancel_is_acknowledged_and_ended() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, invite) = w.dialled(flow);
    w.receive(flow, &reply(&invite, "180 Ringing", "bt", ""));
    w.event();
    w.tell(|core| core.hang_up(leg, cause(487, "Cancelled")));
    let cancel = w.one();
    w.receive(flow, &reply(&invite, "200 OK", "bt", SDP));
    let sent = w.take();
    assert!(sent[0].starts_with("ACK ") && sent[1].starts_with("BYE sip:bob@10.0.0.9:5099"), "{sent:#?}");
    w.receive(flow, &reply(&cancel, "481 Gone", "bt", ""));
    w.receive(flow, &reply(&sent[1], "200 OK", "", ""));
    w.nothing_left();
    assert!(w.events.is_empty());
}

#[test]
fn a_silent_phone_fails_in_8_s_and_a_cancelled_one_that_stays_silent_is_forgotten() {
    let mut w = World::new();
    let (leg, _) = w.dialled(udp(40_000));
    w.pass(Duration::from_millis(7_900));
    assert_eq!(w.take().len(), 4);
    assert!(w.events.is_empty());
    w.pass(Duration::from_millis(200));
    assert!(matches!(w.event(), SipEvent::Failed { leg: failed, cause: Cause { status: 408, .. } } if failed == leg));
    w.nothing_left();

    let mut w = World::new();
    let (leg, invite) = w.dialled(udp(40_000));
    w.receive(udp(40_000), &reply(&invite, "180 Ringing", "bt", ""));
    w.event();
    w.tell(|core| core.hang_up(leg, cause(487, "")));
    w.nothing_left();
    assert!(w.events.is_empty());
}

#[test]
fn endless_ringing_is_given_up() {
    let mut w = World::new();
    let (leg, invite) = w.dialled(udp(40_000));
    w.receive(udp(40_000), &reply(&invite, "180 Ringing", "bt", ""));
    w.event();
    w.take();
    w.pass(Duration::from_secs(599));
    w.events.retain(|event| !matches!(event, SipEvent::Contacts { .. }));
    w.quiet();
    w.pass(Duration::from_secs(2));
    w.events.retain(|event| !matches!(event, SipEvent::Contacts { .. }));
    assert!(matches!(w.event(), SipEvent::Failed { leg: failed, .. } if failed == leg));
    assert!(w.take()[0].starts_with("CANCEL "));
    w.nothing_left();
}

#[test]
fn a_phone_whose_connection_is_gone_fails_at_once() {
    let mut w = World::new();
    let contact = w.register(tcp(5), "bob");
    w.core.connections.remove(&5);
    let leg = w.core.new_leg_id();
    w.tell(|core| core.dial(leg, &DialTarget::Contact(contact), &presented(), "sip:bob@peer.alt", &Bytes::from(SDP)));
    assert!(matches!(w.event(), SipEvent::Failed { cause: Cause { status: 480, .. }, .. }));
    w.nothing_left();
}

#[test]
fn a_phone_that_reconnects_in_a_call_is_reached_on_its_new_connection() {
    let mut w = World::new();
    let (leg, invite) = w.dialled(tcp(5));
    w.receive(tcp(5), &reply(&invite, "200 OK", "bt", SDP));
    w.take();
    w.event();
    w.core.connection_closed(5, w.now);
    w.drain();
    w.events.clear();
    w.register(tcp(6), "bob");
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    let (flow, bye) = w.sent.remove(0);
    assert_eq!(flow, tcp(6));
    assert!(bye.starts_with("BYE "));
    w.receive(tcp(6), &reply(&bye, "200 OK", "", ""));
    w.nothing_left();
}

#[test]
fn record_routes_are_followed() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, invite) = w.dialled(flow);
    let ok = reply(&invite, "200 OK", "bt", SDP)
        .replace("Contact:", "Record-Route: <sip:p1;lr>, <sip:p2;lr>\r\nRecord-Route: <sip:p3;lr>\r\nContact:");
    w.receive(flow, &ok);
    let ack = w.one();
    let routes: Vec<_> = ack.split("\r\n").filter_map(|line| line.strip_prefix("Route: ")).collect();
    assert_eq!(routes, ["<sip:p3;lr>", "<sip:p2;lr>", "<sip:p1;lr>"]);
    w.event();
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    assert_eq!(w.one().matches("\r\nRoute: ").count(), 3);

    // A strict router (§12.2.1.1): it becomes the request URI, the target goes last.
    let mut w = World::new();
    let (_, invite) = w.dialled(flow);
    let ok =
        reply(&invite, "200 OK", "bt", SDP).replace("Contact:", "Record-Route: <sip:p2;lr>, <sip:strict>\r\nContact:");
    w.receive(flow, &ok);
    let ack = w.one();
    assert!(ack.starts_with("ACK sip:strict SIP/2.0\r\n"), "{ack}");
    let routes: Vec<_> = ack.split("\r\n").filter_map(|line| line.strip_prefix("Route: ")).collect();
    assert_eq!(routes, ["<sip:p2;lr>", "<sip:bob@10.0.0.9:5099>"]);
}

#[test]
fn a_response_from_elsewhere_is_not_believed() {
    let mut w = World::new();
    let (_, invite) = w.dialled(udp(40_000));
    let stranger =
        Flow::Udp { local: "10.0.0.1:5060".parse().expect("a"), remote: "10.6.6.6:5060".parse().expect("a") };
    w.receive(stranger, &reply(&invite, "200 OK", "evil", SDP));
    w.quiet();
    assert_eq!(w.core.counts.refused().get("stray-response"), Some(&1));
}
