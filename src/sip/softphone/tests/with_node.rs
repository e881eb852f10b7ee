//! Two phones and the real `Sip` between them, over loopback; a few lines stand in for `calls`.

use super::{PhoneEvent, SDP, Softphone, SoftphoneConfig, SoftphoneError, sdp};
use crate::sip::{Account, Cause, DialTarget, LegId, Presented, Sip, SipConfig, SipEvent, SipLimits, SipStatus};
use crate::telemetry::Metrics;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const DEADLINE: Duration = Duration::from_secs(20);

struct Node {
    server: SocketAddr,
    status: watch::Receiver<SipStatus>,
    _accounts: watch::Sender<Arc<BTreeMap<String, Account>>>,
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

async fn node(keeps: bool) -> Node {
    let account = |name: &str, sha256| Account { name: name.to_owned(), password: format!("pw {name}"), sha256 };
    let accounts = [account("anna", false), account("ben", true)];
    let accounts = Arc::new(accounts.into_iter().map(|account| (account.name.clone(), account)).collect());
    let (sender, receiver) = watch::channel(accounts);
    let config = SipConfig {
        udp: Some(([127, 0, 0, 1], 0).into()),
        tcp: None,
        realm: "peerline.alt".to_owned(),
        accounts: receiver,
        restored: Vec::new(),
        limits: SipLimits {
            max_legs: 100,
            max_contacts_per_account: 4,
            max_tcp_connections: 4,
            requests_per_second: 1000,
            request_burst: 1000,
        },
    };
    let (sip, events) = Sip::start(config, Metrics::default()).await.expect("started");
    let status = sip.status();
    let server = status.borrow().udp.expect("bound");
    tokio::spawn(calls(sip, events, keeps));
    Node { server, status, _accounts: sender }
}

/// Joins the two legs of each call.
async fn calls(sip: Sip, mut events: mpsc::Receiver<SipEvent>, keeps: bool) {
    let mut other: BTreeMap<LegId, LegId> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        match event {
            SipEvent::Contacts { bind: Some(bind), .. } => sip.confirm_bind(bind, keeps).await,
            SipEvent::Invited { leg, dialled, offer, display, .. } => {
                let user = dialled.trim_start_matches("sip:").split('@').next().unwrap_or_default().to_owned();
                let Some(contact) = sip.contacts(&user).await.first().copied() else {
                    sip.reject(leg, Cause { status: 480, words: "not online".to_owned() }).await;
                    continue;
                };
                let out = sip.new_leg();
                other.extend([(leg, out), (out, leg)]);
                let from = Presented { uri: "sip:proven@peerline.alt".to_owned(), display };
                sip.dial(out, DialTarget::Contact(contact), from, format!("sip:{user}@peerline.alt"), offer).await;
            }
            SipEvent::Progress { leg, status, sdp, .. } => sip.ring(other[&leg], status, sdp).await,
            SipEvent::Answered { leg, sdp } => sip.answer(other[&leg], sdp, None).await,
            SipEvent::Failed { leg, cause } => sip.reject(other[&leg], cause).await,
            SipEvent::Ended { leg, cause } => {
                sip.hang_up(other[&leg], cause.unwrap_or(Cause { status: 200, words: "bye".to_owned() })).await;
            }
            _ => {}
        }
    }
}

async fn phone(
    node: &Node,
    account: &str,
    password: &str,
) -> Result<(Softphone, mpsc::Receiver<PhoneEvent>), SoftphoneError> {
    let config = SoftphoneConfig {
        server: node.server,
        account: account.to_owned(),
        password: password.to_owned(),
        display: Some("Some \"One\"".to_owned()),
    };
    within(Softphone::register(config)).await
}

#[tokio::test]
async fn two_phones_call_each_other_and_leave_nothing() {
    let node = node(true).await;
    let (anna, mut at_anna) = phone(&node, "anna", "pw anna").await.expect("registered");
    let (ben, mut at_ben) = phone(&node, "ben", "pw ben").await.expect("registered");
    for round in 0..4 {
        anna.call("ben", sdp()).await;
        let event = within(at_ben.recv()).await;
        let Some(PhoneEvent::Incoming { from, offer, .. }) = event else { panic!("{event:?}") };
        assert_eq!((from.as_str(), &offer[..]), ("sip:proven@peerline.alt", SDP));
        ben.ring().await;
        let event = within(at_anna.recv()).await;
        assert!(matches!(event, Some(PhoneEvent::Ringing { status: 180, .. })), "{event:?}");
        if round == 3 {
            anna.hang_up().await;
            let event = within(at_ben.recv()).await;
            assert!(matches!(event, Some(PhoneEvent::Ended { .. })), "{event:?}");
            continue;
        }
        if round == 2 {
            ben.reject(486).await;
            let event = within(at_anna.recv()).await;
            assert!(matches!(&event, Some(PhoneEvent::Failed { cause }) if cause.status == 486), "{event:?}");
            continue;
        }
        ben.answer(sdp()).await;
        let event = within(at_anna.recv()).await;
        assert!(matches!(&event, Some(PhoneEvent::Answered { sdp }) if sdp == SDP), "{event:?}");
        let (ends, hears) = if round == 0 { (&anna, &mut at_ben) } else { (&ben, &mut at_anna) };
        ends.hang_up().await;
        let event = within(hears.recv()).await;
        assert!(matches!(event, Some(PhoneEvent::Ended { .. })), "{event:?}");
    }
    anna.call("nobody", sdp()).await;
    let event = within(at_anna.recv()).await;
    assert!(
        matches!(&event, Some(PhoneEvent::Failed { cause }) if cause.status == 480 && cause.words == "not online"),
        "{event:?}"
    );
    anna.close(DEADLINE).await;
    drop(ben);
    let mut status = node.status.clone();
    within(status.wait_for(|status| status.registered.is_empty() && status.legs == 0)).await.expect("all gone");
}

#[tokio::test]
async fn wrong_passwords_and_unkept_bindings_are_refused() {
    let healthy = node(true).await;
    for account in ["anna", "ben", "nobody"] {
        let refused = phone(&healthy, account, "wrong").await.err();
        assert!(matches!(refused, Some(SoftphoneError::Refused(401))), "{refused:?}");
    }
    assert!(healthy.status.borrow().registered.is_empty());
    let broken = node(false).await;
    let refused = phone(&broken, "anna", "pw anna").await.err();
    assert!(matches!(refused, Some(SoftphoneError::Refused(500))), "{refused:?}");
}
