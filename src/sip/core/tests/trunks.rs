//! RFC 3261 §18.3 on a trunk: whole calls between two cores, and what a far end may not say.

use super::*;
use crate::sip::{Caller, Cause};

const A: &str = "sip:AAAAaaaa@peer.alt";
const B: &str = "sip:bbbb@peer.alt";

fn gone() -> Cause {
    Cause { status: 503, words: "Gone".into() }
}

/// Two nodes with a trunk; `A` is the user of the first.
struct Pair {
    a: World,
    b: World,
}

impl Pair {
    fn new() -> Self {
        let (mut a, mut b) = (World::new(), World::new());
        a.trunk(1, A, B);
        b.trunk(9, B, A);
        Self { a, b }
    }

    /// Carries messages until both are quiet; gives the events of both.
    fn carry(&mut self) -> (Vec<SipEvent>, Vec<SipEvent>) {
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        while !(self.a.events.is_empty() && self.b.events.is_empty()) {
            for event in std::mem::take(&mut self.a.events) {
                match event {
                    SipEvent::TrunkSend { trunk: TrunkId(1), message } => {
                        self.b.receive(Flow::Trunk(TrunkId(9)), &text(&message))
                    }
                    other => of_a.push(other),
                }
            }
            for event in std::mem::take(&mut self.b.events) {
                match event {
                    SipEvent::TrunkSend { trunk: TrunkId(9), message } => {
                        self.a.receive(Flow::Trunk(TrunkId(1)), &text(&message))
                    }
                    other => of_b.push(other),
                }
            }
        }
        (of_a, of_b)
    }

    fn dial(&mut self, from: &str, to: &str) -> LegId {
        let leg = self.a.core.new_leg_id();
        let from = Presented { uri: from.into(), display: Some("Ann".into()) };
        self.a.tell(|core| core.dial(leg, &DialTarget::Trunk(TrunkId(1)), &from, to, &Bytes::from(SDP)));
        leg
    }
}

fn text(message: &Bytes) -> String {
    String::from_utf8(message.to_vec()).expect("text")
}

#[test]
fn a_call_over_a_trunk_both_ways() {
    for from_a in [true, false] {
        let mut pair = Pair::new();
        let leg_a = pair.dial(A, B);
        let SipEvent::TrunkSend { message, .. } = &pair.a.events[0] else { panic!("nothing sent") };
        let head = text(message).replace(SDP, "");
        assert!(!head.contains("10.0.0."), "no address of ours leaves: {head}");
        let (_, of_b) = pair.carry();
        let [SipEvent::Invited { leg: leg_b, caller, dialled, display, .. }] = &of_b[..] else { panic!("{of_b:?}") };
        assert_eq!((caller, dialled.as_str(), display.as_deref()), (&Caller::Trunk(TrunkId(9)), "bbbb", Some("Ann")));
        let leg_b = *leg_b;
        pair.b.tell(|core| core.ring(leg_b, 180, None));
        pair.b.tell(|core| core.answer(leg_b, &Bytes::from(SDP), None));
        let (of_a, _) = pair.carry();
        assert!(matches!(of_a[..], [SipEvent::Progress { .. }, SipEvent::Answered { .. }]), "{of_a:?}");
        pair.a.tell(|core| core.reoffer(leg_a, &Bytes::from(SDP)));
        let (_, of_b) = pair.carry();
        assert!(matches!(of_b[..], [SipEvent::Reoffer { .. }]), "{of_b:?}");
        pair.b.tell(|core| core.answer_reoffer(leg_b, &Bytes::from(SDP)));
        let (of_a, _) = pair.carry();
        assert!(matches!(of_a[..], [SipEvent::ReofferAnswered { .. }]), "{of_a:?}");
        let (end, leg) = if from_a { (&mut pair.a, leg_a) } else { (&mut pair.b, leg_b) };
        end.tell(|core| core.hang_up(leg, cause(200, "Bye")));
        let (of_a, of_b) = pair.carry();
        let other = if from_a { of_b } else { of_a };
        assert!(matches!(&other[..], [SipEvent::Ended { cause: Some(Cause { status: 200, .. }), .. }]), "{other:?}");
        pair.a.nothing_left();
        pair.b.nothing_left();
    }
}

#[test]
fn refusal_and_cancel_over_a_trunk() {
    let mut pair = Pair::new();
    pair.dial(A, B);
    let (_, of_b) = pair.carry();
    let [SipEvent::Invited { leg, .. }] = of_b[..] else { panic!("{of_b:?}") };
    pair.b.tell(|core| core.reject(leg, &cause(486, "In Another Call")));
    let (of_a, _) = pair.carry();
    assert!(
        matches!(&of_a[..], [SipEvent::Failed { cause: Cause { status: 486, words }, .. }] if words == "In Another Call")
    );
    let leg = pair.dial(A, B);
    pair.carry();
    pair.a.tell(|core| core.hang_up(leg, cause(200, "Call completed elsewhere")));
    let (_, of_b) = pair.carry();
    assert!(matches!(&of_b[..], [SipEvent::Ended { cause: Some(Cause { status: 200, .. }), .. }]), "{of_b:?}");
    pair.a.nothing_left();
    pair.b.nothing_left();
}

#[test]
fn a_far_end_speaks_only_for_its_proven_user() {
    for (from, to, status) in [
        ("sip:mallory@peer.alt", B, 403),
        ("sip:aaaaaaaa@evil.alt", B, 403),
        (A, "sip:other@peer.alt", 404),
        ("sip:aaaaAAAA@PEER.alt", "sip:BBBB@peer.alt", 0),
    ] {
        let mut pair = Pair::new();
        pair.dial(from, to);
        let (of_a, of_b) = pair.carry();
        if status == 0 {
            assert!(matches!(of_b[..], [SipEvent::Invited { .. }]));
        } else {
            assert!(of_b.is_empty(), "{of_b:?}");
            assert!(matches!(&of_a[..], [SipEvent::Failed { cause, .. }] if cause.status == status), "{of_a:?}");
            let reason = if status == 403 { "altered-from" } else { "wrong-user" };
            assert_eq!(pair.b.core.counts.refused().get(reason), Some(&1));
        }
    }
    // From is right, the asserted identity is not.
    let mut pair = Pair::new();
    pair.dial(A, B);
    let Some(SipEvent::TrunkSend { message, .. }) = pair.a.events.pop() else { panic!("nothing sent") };
    let altered =
        text(&message).replace("P-Asserted-Identity: \"Ann\" <sip:AAAA", "P-Asserted-Identity: \"Ann\" <sip:eeee");
    pair.b.receive(Flow::Trunk(TrunkId(9)), &altered);
    let (of_a, of_b) = pair.carry();
    assert!(of_b.is_empty() && matches!(&of_a[..], [SipEvent::Failed { cause: Cause { status: 403, .. }, .. }]));
}

#[test]
fn a_lost_trunk_ends_its_legs() {
    let mut pair = Pair::new();
    let first = pair.dial(A, B);
    let (_, of_b) = pair.carry();
    let [SipEvent::Invited { leg, .. }] = of_b[..] else { panic!("{of_b:?}") };
    pair.b.tell(|core| core.answer(leg, &Bytes::from(SDP), None));
    pair.carry();
    let second = pair.dial(A, B);
    pair.carry();
    pair.a.tell(|core| core.trunk_down(TrunkId(1), &gone()));
    let ended: Vec<_> = std::mem::take(&mut pair.a.events);
    assert!(
        matches!(ended[..], [SipEvent::Ended { leg: a, .. }, SipEvent::Failed { leg: b, .. }] if a == first && b == second),
        "{ended:?}"
    );
    pair.a.nothing_left();
    pair.b.tell(|core| core.trunk_down(TrunkId(9), &gone()));
    assert_eq!(std::mem::take(&mut pair.b.events).len(), 2);
    pair.b.nothing_left();
    // Nothing is heard from a trunk that is not up.
    pair.b.tell(|core| core.trunk_receive(TrunkId(9), &Bytes::from_static(b"x"), Instant::now(), UnixMillis(0)));
    pair.b.quiet();
}

#[test]
fn one_trunk_cannot_touch_the_call_of_another() {
    let mut pair = Pair::new();
    pair.dial(A, B);
    let (_, of_b) = pair.carry();
    let [SipEvent::Invited { leg, .. }] = of_b[..] else { panic!("{of_b:?}") };
    pair.b.tell(|core| core.answer(leg, &Bytes::from(SDP), None));
    pair.carry();
    pair.a.tell(|core| core.end_all(&cause(200, "Bye")));
    let Some(SipEvent::TrunkSend { message: bye, .. }) = pair.a.events.pop() else { panic!("no BYE") };
    pair.b.trunk(10, B, A);
    pair.b.receive(Flow::Trunk(TrunkId(10)), &text(&bye));
    assert!(
        matches!(&pair.b.events[..], [SipEvent::TrunkSend { trunk: TrunkId(10), message }] if text(message).starts_with("SIP/2.0 481"))
    );
    assert_eq!(pair.b.core.leg_count(), 1);
}
