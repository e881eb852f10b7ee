//! RFC 3261 §13: a phone calls another one through the node, on every pair of transports.

use crate::phone::{Phone, header};
use crate::{Node, SDP};
use bytes::Bytes;
use peerline::sip::{Caller, Cause, ContactId, DialTarget, LegId, Presented, SipEvent};

pub async fn register(node: &mut Node, phone: &mut Phone) -> ContactId {
    phone.authenticated("REGISTER", "sip:peer.alt", &format!("reg{}", phone.account), "Expires: 600\r\n", "").await;
    let SipEvent::Contacts { bind: Some(bind), contacts, .. } = node.event().await else { panic!("no bind") };
    node.sip.confirm_bind(bind, true).await;
    phone.expect("SIP/2.0 200").await;
    contacts[0]
}

/// Bridges a call from `alice` to `contact` until both sides are up; gives the legs and what the phones saw.
pub async fn bridge(
    node: &mut Node,
    alice: &mut Phone,
    bob: &mut Phone,
    contact: ContactId,
    call: &str,
) -> (LegId, LegId, String, String) {
    alice.invite("bob", call).await;
    let SipEvent::Invited { leg: from, caller, offer, .. } = node.event().await else { panic!("no call") };
    assert!(matches!(caller, Caller::Phone { ref account, .. } if account == "alice"));
    let to = node.sip.new_leg();
    let who = Presented { uri: "sip:alice@peer.alt".into(), display: Some("Alice".into()) };
    node.sip.dial(to, DialTarget::Contact(contact), who, "sip:bob@peer.alt".into(), offer).await;
    let invite = bob.expect("INVITE ").await;
    bob.send(&bob.reply(&invite, "180 Ringing", "b", "")).await;
    let SipEvent::Progress { leg, status: 180, .. } = node.event().await else { panic!("no ringing") };
    assert_eq!(leg, to);
    node.sip.ring(from, 180, None).await;
    alice.expect("SIP/2.0 180").await;
    bob.send(&bob.reply(&invite, "200 OK", "b", SDP)).await;
    bob.expect("ACK ").await;
    let SipEvent::Answered { sdp, .. } = node.event().await else { panic!("no answer") };
    node.sip.answer(from, sdp, None).await;
    let ok = alice.expect("SIP/2.0 200").await;
    let ack = alice.inside("ACK", &ok, 2, false, "");
    alice.send(&ack).await;
    let tagged = invite.replace(header(&invite, "To"), &format!("{};tag=b", header(&invite, "To")));
    (from, to, ok, tagged)
}

fn cause() -> Cause {
    Cause { status: 200, words: "Normal Clearing".into() }
}

#[tokio::test]
async fn calls_between_udp_and_tcp_end_from_either_side() {
    let mut node = Node::start().await;
    let (udp, tcp) = {
        let status = node.sip.status().borrow().clone();
        (status.udp.expect("on"), status.tcp.expect("on"))
    };
    for (n, (a, b)) in [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate() {
        let mut alice = if a { Phone::tcp(tcp, "alice").await } else { Phone::udp(udp, "alice").await };
        let mut bob = if b { Phone::tcp(tcp, "bob").await } else { Phone::udp(udp, "bob").await };
        let contact = register(&mut node, &mut bob).await;
        let (from, to, ok, invite) = bridge(&mut node, &mut alice, &mut bob, contact, &format!("c{n}")).await;
        // A re-INVITE of the caller passes to the other phone and its answer comes back.
        let hold = alice.inside("INVITE", &ok, 3, false, SDP);
        alice.send(&hold).await;
        let SipEvent::Reoffer { leg, offer } = node.event().await else { panic!("no re-offer") };
        assert_eq!(leg, from);
        node.sip.reoffer(to, offer).await;
        let again = bob.expect("INVITE ").await;
        bob.send(&bob.reply(&again, "200 OK", "", SDP)).await;
        bob.expect("ACK ").await;
        let SipEvent::ReofferAnswered { sdp, .. } = node.event().await else { panic!("no answer") };
        node.sip.answer_reoffer(from, sdp).await;
        let answered = alice.expect("SIP/2.0 200").await;
        let ack = alice.inside("ACK", &answered, 3, false, "");
        alice.send(&ack).await;
        node.sip.info(to, "application/dtmf-relay".into(), Bytes::from_static(b"Signal=5\r\n")).await;
        let info = bob.expect("INFO ").await;
        bob.send(&bob.reply(&info, "200 OK", "", "")).await;
        if n % 2 == 0 {
            let bye = alice.inside("BYE", &ok, 4, false, "");
            alice.send(&bye).await;
            alice.expect("SIP/2.0 200").await;
            assert!(matches!(node.event().await, SipEvent::Ended { leg, .. } if leg == from));
            node.sip.hang_up(to, cause()).await;
            let bye = bob.expect("BYE ").await;
            assert_eq!(header(&bye, "Reason"), "SIP;cause=200;text=\"Normal Clearing\"");
            bob.send(&bob.reply(&bye, "200 OK", "", "")).await;
        } else {
            let bye = bob.inside("BYE", &invite, 1, true, "");
            bob.send(&bye).await;
            bob.expect("SIP/2.0 200").await;
            assert!(matches!(node.event().await, SipEvent::Ended { leg, .. } if leg == to));
            node.sip.hang_up(from, cause()).await;
            let bye = alice.expect("BYE ").await;
            alice.send(&alice.reply(&bye, "200 OK", "", "")).await;
        }
        node.status(|status| status.legs == 0).await;
        // Take the phone away, so that the next one is first.
        bob.authenticated("REGISTER", "sip:peer.alt", "unreg", "Expires: 0\r\n", "").await;
        let SipEvent::Contacts { bind: Some(bind), .. } = node.event().await else { panic!("no unbind") };
        node.sip.confirm_bind(bind, true).await;
        bob.expect("SIP/2.0 200").await;
    }
    let metrics = node.metrics.encode();
    assert!(metrics.contains("peerline_sip_requests_total{method=\"INVITE\"}"), "{metrics}");
    node.sip.shutdown().await;
}

#[tokio::test]
async fn shutting_down_ends_calls_and_frees_the_ports() {
    let mut node = Node::start().await;
    let status = node.sip.status().borrow().clone();
    let (udp, tcp) = (status.udp.expect("on"), status.tcp.expect("on"));
    let mut alice = Phone::udp(udp, "alice").await;
    let mut bob = Phone::tcp(tcp, "bob").await;
    let contact = register(&mut node, &mut bob).await;
    bridge(&mut node, &mut alice, &mut bob, contact, "c").await;
    node.sip.shutdown().await;
    alice.expect("BYE ").await;
    bob.expect("BYE ").await;
    assert_eq!(tokio::time::timeout(crate::DEADLINE, bob.next()).await.expect("closed in time"), None);
    std::net::UdpSocket::bind(udp).expect("the UDP port is free");
    // What comes afterwards does nothing and does not hang.
    node.sip.hang_up(node.sip.new_leg(), cause()).await;
    assert!(node.sip.contacts("bob").await.is_empty());
}
