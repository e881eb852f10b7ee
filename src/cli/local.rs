//! Reaching the node that runs on this data directory, or a temporary one in this process when none runs.

use super::words::Progress;
use super::{Common, first};
use crate::clock::UnixMillis;
use crate::config::{ChosenOverlay, Settings};
use crate::identity::NodeSecret;
use crate::node::dir::DataDir;
use crate::node::run_file::RunInfo;
use crate::node::users;
use crate::node::{Node, NodeConfig, Passphrase};
use anyhow::Context;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A local answer that takes longer means a broken node; lookups are bounded at 20 s by the node.
const API_DEADLINE: Duration = Duration::from_secs(30);
/// The largest answer: status of a gateway with thousands of phones.
const MAX_ANSWER: u64 = 8 * 1024 * 1024;
/// How long a temporary node may look for others.
const JOIN_DEADLINE: Duration = Duration::from_secs(15);

/// The node that a command works with.
pub(super) enum Reach {
    Running(Box<RunInfo>),
    Own(Box<Node>),
}

impl Reach {
    /// The running node, or a temporary one that has joined.
    pub async fn find(common: &Common, dir: &DataDir) -> anyhow::Result<Self> {
        if let Some(run) = RunInfo::of_running(dir)? {
            return Ok(Self::Running(Box::new(run)));
        }
        let mut settings = common.settings(None)?;
        super::words::start_log(&settings.log.filter)?;
        // A port of its own: the usual one is for a node that stays.
        if common.sip.is_none() {
            let any = crate::config::Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            (settings.sip.udp, settings.sip.tcp) = (any, any);
        }
        let passphrase = unlock(common, dir, &settings)?;
        let progress = Progress::start("no node runs here: starting one for this command", common.json);
        let node = Node::start(NodeConfig { dir: dir.clone(), settings, temporary: false, passphrase }).await?;
        let joined = timeout(JOIN_DEADLINE, node.joined(1, |_| {})).await.is_ok();
        progress.end(if joined { "joined" } else { "no other node was found" });
        Ok(Self::Own(Box::new(node)))
    }

    pub fn info(&self) -> &RunInfo {
        match self {
            Self::Running(run) => run,
            Self::Own(node) => node.info(),
        }
    }

    /// The SIP address as a phone on this machine dials it.
    pub fn sip(&self) -> anyhow::Result<SocketAddr> {
        let address = self.info().sip_udp.context("this node takes no phones over UDP (its SIP address is off)")?;
        Ok(SocketAddr::new(local(address.ip()), address.port()))
    }

    pub async fn end(self) {
        if let Self::Own(node) = self {
            node.stop().await;
        }
    }
}

/// Certificates of all users, so that a passphrase is asked for before anything starts.
pub(super) fn unlock(common: &Common, dir: &DataDir, settings: &Settings) -> anyhow::Result<Option<Passphrase>> {
    let overlay = ChosenOverlay::choose(&settings.overlay)?;
    let device = NodeSecret::load_or_create(dir.path())?.public();
    let mut passphrase = None;
    for user in users::list(dir)? {
        let now = UnixMillis::now();
        let open = |p: Option<&str>| users::certified(dir, &user, &overlay.id, device, p, now);
        let (_, given) = first::with_passphrase(common, open)?;
        passphrase = passphrase.or(given);
    }
    Ok(passphrase)
}

/// `GET` of the running node's API: status code and JSON.
pub(super) async fn get(run: &RunInfo, dir: &DataDir, path: &str) -> anyhow::Result<(u16, serde_json::Value)> {
    let address = run.api.context("the running node's local API is off")?;
    let token = dir.read_private(&dir.file("api.token"))?.context("the running node has no API token")?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        token.trim()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(API_DEADLINE, exchange)
        .await
        .context("the running node does not answer")?
        .context("the running node's local API")?;
    parse(&answer).context("the running node's answer cannot be read")
}

fn parse(answer: &[u8]) -> Option<(u16, serde_json::Value)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_slice(&answer[end + 4..]).ok()?))
}

/// `text` as a query value.
pub(super) fn query(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// An address to dial for a socket that is bound to `ip`.
fn local(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(query("sip:a b@c"), "sip%3Aa%20b%40c");
    }

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let (status, body) = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        assert_eq!((status, body), (200, serde_json::json!({})));
        assert!(parse(b"HTTP/1.1 200").is_none() && parse(b"\r\n\r\n").is_none() && parse(b"").is_none());
    }
}
