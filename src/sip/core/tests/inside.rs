//! RFC 3261 §12.2, §14: requests inside a dialog.

use super::*;

fn new_sdp() -> Bytes {
    Bytes::from(SDP.replace("4000", "4002"))
}

#[test]
fn a_reoffer_of_the_phone_passes() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, ok) = w.established(flow, "c1");
    let again = w.inside("INVITE", &ok, 3, "", SDP);
    w.receive(flow, &again);
    assert!(w.one().starts_with("SIP/2.0 100 "));
    assert!(matches!(w.event(), SipEvent::Reoffer { leg: of, .. } if of == leg));
    // Another before the answer: 500 with Retry-After (§14.2). Ours meanwhile: glare.
    let more = w.inside("INVITE", &ok, 4, "", SDP);
    w.receive(flow, &more);
    let answer = w.one();
    assert!(answer.starts_with("SIP/2.0 500 ") && answer.contains("Retry-After"), "{answer}");
    w.tell(|core| core.reoffer(leg, &new_sdp()));
    assert!(matches!(w.event(), SipEvent::ReofferFailed { cause: Cause { status: 491, .. }, .. }));
    w.tell(|core| core.answer_reoffer(leg, &new_sdp()));
    let answered = w.one();
    assert!(answered.starts_with("SIP/2.0 200 ") && header(&answered, "CSeq") == "3 INVITE", "{answered}");
    let ack = w.inside("ACK", &ok, 3, "", "");
    w.receive(flow, &ack);
    w.pass(Duration::from_secs(40));
    w.quiet();
    let third = w.inside("INVITE", &ok, 5, "", SDP);
    w.receive(flow, &third);
    w.take();
    w.event();
    w.tell(|core| core.reject_reoffer(leg, &cause(488, "Not Here")));
    assert!(w.one().starts_with("SIP/2.0 488 Not Here"));
    w.pass(Duration::from_secs(40));
    w.take();
    assert_eq!(w.core.leg_count(), 1);
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    w.nothing_left();
}

#[test]
fn our_reoffer_passes_and_glare_is_491_both_ways() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, ok) = w.established(flow, "c1");
    w.tell(|core| core.reoffer(leg, &new_sdp()));
    let ours = w.one();
    assert!(ours.starts_with("INVITE sip:alice@192.168.1.7:5099") && header(&ours, "CSeq") == "1 INVITE", "{ours}");
    let theirs = w.inside("INVITE", &ok, 3, "", SDP);
    w.receive(flow, &theirs);
    assert!(w.one().starts_with("SIP/2.0 491 "));
    w.receive(flow, &reply(&ours, "491 Request Pending", "", ""));
    assert!(w.one().starts_with("ACK "));
    assert!(matches!(w.event(), SipEvent::ReofferFailed { cause: Cause { status: 491, .. }, .. }));
    w.tell(|core| core.reoffer(leg, &new_sdp()));
    let ours = w.one();
    assert_eq!(header(&ours, "CSeq"), "2 INVITE");
    w.receive(flow, &reply(&ours, "200 OK", "", SDP));
    let ack = w.one();
    assert!(ack.starts_with("ACK ") && header(&ack, "CSeq") == "2 ACK", "{ack}");
    assert!(matches!(w.event(), SipEvent::ReofferAnswered { .. }));
    w.receive(flow, &reply(&ours, "200 OK", "", SDP));
    assert_eq!(w.one(), ack);
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    w.nothing_left();
}

#[test]
fn a_far_end_that_forgot_the_call_ends_it() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, _) = w.established(flow, "c1");
    w.tell(|core| core.reoffer(leg, &new_sdp()));
    let ours = w.one();
    w.receive(flow, &reply(&ours, "481 Gone", "", ""));
    assert!(matches!(w.event(), SipEvent::ReofferFailed { .. }));
    assert!(matches!(w.event(), SipEvent::Ended { cause: Some(Cause { status: 481, .. }), .. }));
    w.nothing_left();
}

#[test]
fn info_passes_both_ways_and_options_answers() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, ok) = w.established(flow, "c1");
    let info = w.inside("INFO", &ok, 3, "", "x").replace("application/sdp", "application/dtmf-relay");
    w.receive(flow, &info);
    assert!(w.one().starts_with("SIP/2.0 200 "));
    let SipEvent::Info { content_type, body, .. } = w.event() else { panic!("no info") };
    assert_eq!((content_type.as_str(), body.as_ref()), ("application/dtmf-relay", b"x".as_ref()));
    w.receive(flow, &info);
    assert!(w.one().starts_with("SIP/2.0 200 "));
    assert!(w.events.is_empty());
    let options = w.inside("OPTIONS", &ok, 4, "", "");
    w.receive(flow, &options);
    assert!(w.one().starts_with("SIP/2.0 200 "));
    let stale = w.inside("INFO", &ok, 2, "", "y");
    w.receive(flow, &stale);
    assert!(w.one().starts_with("SIP/2.0 500 "));
    let update = w.inside("UPDATE", &ok, 9, "", SDP);
    w.receive(flow, &update);
    assert!(w.one().starts_with("SIP/2.0 405 "));
    w.tell(|core| core.info(leg, "application/dtmf-relay\r\nEvil: 1", &Bytes::from_static(b"Signal=5")));
    let info = w.one();
    assert!(info.starts_with("INFO sip:alice@192.168.1.7:5099") && !info.contains("\r\nEvil"), "{info}");
    w.receive(flow, &reply(&info, "200 OK", "", ""));
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    w.nothing_left();
}

#[test]
fn a_stranger_cannot_end_a_call_and_a_moved_phone_can() {
    let mut w = World::new();
    let flow = udp(40_000);
    let (leg, ok) = w.established(flow, "c1");
    let bye = w.inside("BYE", &ok, 3, "", "");
    let stranger =
        Flow::Udp { local: "10.0.0.1:5060".parse().expect("a"), remote: "10.6.6.6:5060".parse().expect("a") };
    w.receive(stranger, &bye);
    assert!(w.one().starts_with("SIP/2.0 481 "));
    w.receive(flow, &bye.replace("ft-c1", "guess"));
    assert!(w.one().starts_with("SIP/2.0 481 "));
    assert!(w.events.is_empty());
    // Its NAT gave it another port.
    let info = w.inside("INFO", &ok, 4, "", "");
    w.receive(udp(41_111), &info);
    w.take();
    w.tell(|core| core.hang_up(leg, cause(200, "")));
    assert_eq!(w.sent.remove(0).0, udp(41_111));
    w.nothing_left();
}

#[test]
fn hanging_up_ends_a_leg_in_every_state() {
    for step in 0..6 {
        let mut w = World::new();
        let flow = udp(40_000);
        let leg = match step {
            0 => w.invited(flow, "c").0,
            1 => {
                let (leg, _) = w.invited(flow, "c");
                w.tell(|core| core.answer(leg, &new_sdp(), None));
                leg
            }
            2 => w.established(flow, "c").0,
            3 => w.dialled(flow).0,
            4 => {
                let (leg, invite) = w.dialled(flow);
                w.receive(flow, &reply(&invite, "183 Progress", "t", SDP));
                leg
            }
            _ => {
                let (leg, ok) = w.established(flow, "c");
                let again = w.inside("INVITE", &ok, 3, "", SDP);
                w.receive(flow, &again);
                leg
            }
        };
        w.events.clear();
        w.tell(|core| core.hang_up(leg, cause(480, "Gone")));
        w.tell(|core| core.hang_up(leg, cause(480, "Gone")));
        w.nothing_left();
        w.events.retain(|event| !matches!(event, SipEvent::Contacts { .. }));
        assert!(w.events.is_empty(), "step {step}: {:?}", w.events);
        assert!(!w.take().is_empty(), "step {step}: the far end must be told");
    }
}

#[test]
fn going_down_tells_every_far_end() {
    let mut w = World::new();
    w.invited(udp(40_000), "a");
    w.established(udp(40_001), "b");
    let (leg, _) = w.invited(udp(40_002), "c");
    w.tell(|core| core.answer(leg, &new_sdp(), None));
    w.take();
    let (_, invite) = w.dialled(udp(40_003));
    w.receive(udp(40_003), &reply(&invite, "180 Ringing", "t", ""));
    w.take();
    w.tell(|core| core.end_all(&cause(503, "Going Down")));
    let mut sent: Vec<String> =
        w.take().iter().map(|text| text.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    sent.iter_mut().for_each(|line| line.truncate(11));
    sent.sort();
    assert_eq!(sent, ["BYE sip:ali", "BYE sip:ali", "CANCEL sip:", "SIP/2.0 503"]);
}
