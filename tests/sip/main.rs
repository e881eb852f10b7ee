//! SIP on real sockets: scripted phones on loopback against the `Sip` handle. What needs only logic is tested in virtual
//! time beside the code; here are sockets, streams, backpressure and the absence of leaks.

mod load;
mod phone;
mod rfc3261_13_invite;
mod rfc3261_18_transport;
mod trunk;

use peerline::sip::{Account, Sip, SipConfig, SipEvent, SipLimits};
use peerline::telemetry::Metrics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

pub const DEADLINE: Duration = Duration::from_secs(20);

pub const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// A node's SIP side with the accounts `alice` and `bob` (password = name).
pub struct Node {
    pub sip: Sip,
    pub events: mpsc::Receiver<SipEvent>,
    pub metrics: Metrics,
    _accounts: watch::Sender<Arc<BTreeMap<String, Account>>>,
}

impl Node {
    pub async fn start() -> Self {
        let account =
            |name: &str| (name.to_owned(), Account { name: name.into(), password: name.into(), sha256: false });
        let (sender, accounts) = watch::channel(Arc::new(["alice", "bob"].map(account).into()));
        let any = "127.0.0.1:0".parse().expect("address");
        let limits = SipLimits {
            max_legs: 1_000,
            max_contacts_per_account: 10,
            max_tcp_connections: 16,
            requests_per_second: 1_000_000,
            request_burst: 1_000_000,
        };
        let config = SipConfig {
            udp: Some(any),
            tcp: Some(any),
            realm: "peer.alt".into(),
            accounts,
            restored: Vec::new(),
            limits,
        };
        let metrics = Metrics::default();
        let (sip, events) = Sip::start(config, metrics.clone()).await.expect("loopback ports");
        Self { sip, events, metrics, _accounts: sender }
    }

    pub async fn event(&mut self) -> SipEvent {
        timeout(DEADLINE, self.events.recv()).await.expect("an event in time").expect("a running actor")
    }

    /// Waits until the status says so.
    pub async fn status(&self, wanted: impl Fn(&peerline::sip::SipStatus) -> bool) {
        let mut status = self.sip.status();
        timeout(DEADLINE, status.wait_for(wanted)).await.expect("the status in time").expect("a running actor");
    }
}
