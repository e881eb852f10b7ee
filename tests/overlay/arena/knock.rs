//! What callers of a hostile record send to the host that it names (SECURITY E7): packets, counted at an interface that
//! leads nowhere. For `bench/knock`, which makes it in a namespace of its own; elsewhere nothing is sent.

use crate::harness::{Setup, User, node};
use futures::StreamExt;
use peerline::identity::NodeSecret;
use peerline::overlay::LocalUser;
use serde_json::{Value, json};
use std::time::Duration;

/// The only way to the victim leads here.
const INTERFACE: &str = "knock0";
const HERE: &str = "198.18.0.1";
const VICTIM: &str = "9.9.9.9";

/// As long as a call is dialled.
const DEADLINE: Duration = Duration::from_secs(8);

/// What the record says.
#[derive(Clone, Copy, Debug)]
enum Says {
    OneQuic,
    OneTcp,
    /// As many addresses as a record may have.
    EightQuic,
    EightMixed,
}

/// Sent there so far. From `/proc/net`, which shows this process's namespace wherever `/sys` was mounted.
fn packets() -> u64 {
    let text = std::fs::read_to_string("/proc/net/dev").expect("a list of interfaces");
    let row = text.lines().find_map(|line| line.trim().strip_prefix(INTERFACE)?.strip_prefix(':'));
    let row = row.expect("run by bench/knock, in a namespace of its own");
    row.split_whitespace().nth(9).and_then(|sent| sent.parse().ok()).expect("a number")
}

impl Says {
    fn addresses(self) -> Vec<Vec<u8>> {
        let quic = |n: u16| format!("/ip4/{VICTIM}/udp/{}/quic-v1", 4_000 + n);
        let tcp = |n: u16| format!("/ip4/{VICTIM}/tcp/{}", 4_000 + n);
        let all: Vec<String> = match self {
            Says::OneQuic => vec![quic(1)],
            Says::OneTcp => vec![tcp(1)],
            Says::EightQuic => (0..8).map(quic).collect(),
            Says::EightMixed => (0..8).map(|n| if n % 2 == 0 { quic(n) } else { tcp(n) }).collect(),
        };
        all.iter().map(|address| address.parse::<libp2p::Multiaddr>().expect("an address").to_vec()).collect()
    }
}

/// `callers` nodes call once each, some at once; then one calls ten times. Packets to the victim, for each record.
pub async fn run(callers: usize, at_once: usize) -> Value {
    let mut rows = Vec::new();
    for says in [Says::OneQuic, Says::OneTcp, Says::EightQuic, Says::EightMixed] {
        let before = packets();
        let calls = futures::stream::iter(0..callers).map(|_| call(says, 1));
        let all: Vec<u64> = calls.buffer_unordered(at_once.max(1)).collect().await;
        // What is sent late is sent too.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let sent = packets() - before;
        let before = packets();
        call(says, 10).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        rows.push(json!({
            "record": format!("{says:?}"), "callers": all.len(), "packets": sent,
            "packets_each": (sent as f64 / all.len().max(1) as f64 * 100.0).round() / 100.0,
            "one_caller_ten_calls_in_a_row": packets() - before,
        }));
    }
    json!({ "experiment": "records as DDoS", "victim_answers": false, "rows": rows })
}

/// A node that calls whoever the record says is at the victim's.
async fn call(says: Says, times: usize) -> u64 {
    let listen = ["udp/0/quic-v1", "tcp/0"].map(|port| format!("/ip4/{HERE}/{port}")).into();
    let caller = node(&[], Setup { server: Some(false), listen, ..Setup::default() }).await;
    let local = User::at(&caller.secret);
    caller.overlay.serve_user(LocalUser { id: local.identity.id, bundle: local.bytes().into() }).await;
    for _ in 0..times {
        let (remote, device) = (User::new().identity.id, NodeSecret::generate().public());
        let link = caller.overlay.connect(local.identity.id, remote, device, says.addresses(), DEADLINE).await;
        assert!(link.is_err(), "nobody is there");
    }
    caller.overlay.shutdown().await;
    times as u64
}
