//! Many calls and registrations on real sockets: nothing is left, and how fast it goes.

use crate::Node;
use crate::phone::Phone;
use crate::rfc3261_13_invite::{bridge, register};
use peerline::sip::{Cause, SipEvent};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_leave_no_leg() {
    let mut node = Node::start().await;
    let udp = node.sip.status().borrow().udp.expect("on");
    let (mut alice, mut bob) = (Phone::udp(udp, "alice").await, Phone::udp(udp, "bob").await);
    let contact = register(&mut node, &mut bob).await;
    let start = Instant::now();
    for n in 0..1_000 {
        let (from, to, ok, _) = bridge(&mut node, &mut alice, &mut bob, contact, &format!("c{n}")).await;
        let bye = alice.inside("BYE", &ok, 3, false, "");
        alice.send(&bye).await;
        alice.expect("SIP/2.0 200").await;
        assert!(matches!(node.event().await, SipEvent::Ended { leg, .. } if leg == from));
        node.sip.hang_up(to, Cause { status: 200, words: "Bye".into() }).await;
        let bye = bob.expect("BYE ").await;
        bob.send(&bob.reply(&bye, "200 OK", "", "")).await;
    }
    let took = start.elapsed();
    node.status(|status| status.legs == 0).await;
    println!("1,000 calls one after the other: {took:?}");
}

/// `cargo test --release --test sip -- --ignored --nocapture registers_per_second`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn registers_per_second() {
    let mut node = Node::start().await;
    let udp = node.sip.status().borrow().udp.expect("on");
    let sip = node.sip.clone();
    let kept = tokio::spawn(async move {
        while let Some(event) = node.events.recv().await {
            if let SipEvent::Contacts { bind: Some(bind), .. } = event {
                sip.confirm_bind(bind, true).await;
            }
        }
    });
    let start = Instant::now();
    let (phones, each) = (8, 2_500);
    let tasks: Vec<_> = (0..phones)
        .map(|p| {
            tokio::spawn(async move {
                let mut phone = Phone::udp(udp, "bob").await;
                for n in 0..each {
                    let call = format!("r{p}-{n}");
                    phone.authenticated("REGISTER", "sip:peer.alt", &call, "Expires: 600\r\n", "").await;
                    phone.expect("SIP/2.0 200").await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a phone");
    }
    let took = start.elapsed().as_secs_f64();
    println!("{:.0} registrations/s (two REGISTERs each)", f64::from(phones * each) / took);
    kept.abort();
}
