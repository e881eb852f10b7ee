//! Two nodes whose trunk is a pair of channels.

use crate::phone::Phone;
use crate::{Node, SDP};
use bytes::Bytes;
use peerline::sip::{Caller, Cause, DialTarget, LegId, Presented, SipEvent, TrunkId};

const A: &str = "sip:aaaa@peer.alt";
const B: &str = "sip:bbbb@peer.alt";

/// The next event of `node` that is not for the trunk; what is, goes to `other`, whose answers are carried too.
async fn carry(node: &mut Node, other: &mut Node) -> SipEvent {
    loop {
        tokio::select! {
            event = node.event() => match event {
                SipEvent::TrunkSend { trunk, message } => other.sip.trunk_receive(trunk, message).await,
                event => return event,
            },
            event = other.event() => match event {
                SipEvent::TrunkSend { trunk, message } => node.sip.trunk_receive(trunk, message).await,
                event => panic!("unexpected: {event:?}"),
            }
        }
    }
}

async fn pair() -> (Node, Node) {
    let (a, b) = (Node::start().await, Node::start().await);
    a.sip.trunk_up(TrunkId(1), A.into(), B.into()).await;
    b.sip.trunk_up(TrunkId(1), B.into(), A.into()).await;
    (a, b)
}

async fn dial(node: &Node, from: &str) -> LegId {
    let leg = node.sip.new_leg();
    let who = Presented { uri: from.into(), display: None };
    node.sip.dial(leg, DialTarget::Trunk(TrunkId(1)), who, B.into(), Bytes::from(SDP)).await;
    leg
}

#[tokio::test]
async fn a_call_crosses_a_trunk_to_a_phone() {
    let (mut a, mut b) = pair().await;
    let mut phone = Phone::udp(b.sip.status().borrow().udp.expect("on"), "bob").await;
    let contact = crate::rfc3261_13_invite::register(&mut b, &mut phone).await;
    let leg = dial(&a, A).await;
    let SipEvent::Invited { leg: inbound, caller, dialled, offer, .. } = carry(&mut b, &mut a).await else { panic!() };
    assert_eq!((caller, dialled.as_str()), (Caller::Trunk(TrunkId(1)), "bbbb"));
    let outbound = b.sip.new_leg();
    let who = Presented { uri: A.into(), display: None };
    b.sip.dial(outbound, DialTarget::Contact(contact), who, B.into(), offer).await;
    let invite = phone.expect("INVITE ").await;
    phone.send(&phone.reply(&invite, "200 OK", "p", SDP)).await;
    let SipEvent::Answered { sdp, .. } = carry(&mut b, &mut a).await else { panic!() };
    b.sip.answer(inbound, sdp, None).await;
    assert!(matches!(carry(&mut a, &mut b).await, SipEvent::Answered { leg: up, .. } if up == leg));
    let cause = Cause { status: 200, words: "Bye".into() };
    a.sip.hang_up(leg, cause.clone()).await;
    let SipEvent::Ended { leg: ended, cause: why } = carry(&mut b, &mut a).await else { panic!() };
    assert_eq!((ended, why), (inbound, Some(cause.clone())));
    b.sip.hang_up(outbound, cause).await;
    let bye = phone.expect("BYE ").await;
    phone.send(&phone.reply(&bye, "200 OK", "", "")).await;
    a.status(|status| status.legs == 0).await;
    b.status(|status| status.legs == 0).await;
}

#[tokio::test]
async fn an_altered_from_is_refused_with_403() {
    let (mut a, mut b) = pair().await;
    dial(&a, "sip:mallory@peer.alt").await;
    let SipEvent::Failed { cause, .. } = carry(&mut a, &mut b).await else { panic!() };
    assert_eq!(cause.status, 403);
    b.status(|status| status.refused.get("altered-from") == Some(&1)).await;
}
