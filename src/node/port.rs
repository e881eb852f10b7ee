//! One random port per installation for TCP and QUIC, kept. A fixed port for everybody would make the second host
//! behind one router look symmetric (it is given another one outside) and hard to reach.

use super::dir::{DataDir, DirError};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

/// Above the ephemeral ports of Linux (32768-60999) and of the media range, so nothing sits there by accident.
const FIRST: u16 = 61_000;
const LAST: u16 = 65_500;
const TRIES: usize = 64;

/// The kept port; another one (kept from then on) when it is taken by now.
///
/// # Errors
/// When the file cannot be read or written.
pub(super) fn kept(dir: &DataDir) -> Result<u16, DirError> {
    let path = dir.file("port");
    let kept: Option<u16> = dir.read_private(&path)?.and_then(|text| text.trim().parse().ok());
    if let Some(port) = kept.filter(|port| *port >= 1024 && free(*port)) {
        return Ok(port);
    }
    if let Some(port) = kept {
        tracing::warn!(port, "the overlay's port is taken by another program: choosing a new one");
    }
    let port = (0..TRIES).map(|_| random()).find(|port| free(*port)).unwrap_or_else(random);
    dir.write_private(&path, &format!("{port}\n"))?;
    Ok(port)
}

/// `listen` with port 0 replaced by `port`; the default set for an empty one.
pub(super) fn addresses(listen: &[String], port: u16) -> Vec<String> {
    if listen.is_empty() {
        let mut all = vec![format!("/ip4/0.0.0.0/tcp/{port}"), format!("/ip4/0.0.0.0/udp/{port}/quic-v1")];
        // A machine without IPv6 has nothing to listen on there.
        if UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
            all.extend([format!("/ip6/::/tcp/{port}"), format!("/ip6/::/udp/{port}/quic-v1")]);
        }
        return all;
    }
    listen.iter().map(|address| fill(address, port)).collect()
}

fn fill(address: &str, port: u16) -> String {
    let parts: Vec<&str> = address.split('/').collect();
    let mut filled: Vec<String> = Vec::with_capacity(parts.len());
    for (i, part) in parts.iter().enumerate() {
        let after_transport = i > 0 && matches!(parts[i - 1], "tcp" | "udp");
        filled.push(if after_transport && *part == "0" { port.to_string() } else { (*part).to_owned() });
    }
    filled.join("/")
}

fn random() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    FIRST + u16::from_be_bytes(bytes) % (LAST - FIRST)
}

fn free(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_becomes_the_kept_one_and_others_stay() {
        assert_eq!(fill("/ip4/127.0.0.1/tcp/0", 7), "/ip4/127.0.0.1/tcp/7");
        assert_eq!(fill("/ip4/127.0.0.1/udp/0/quic-v1", 7), "/ip4/127.0.0.1/udp/7/quic-v1");
        assert_eq!(fill("/ip4/127.0.0.1/tcp/80", 7), "/ip4/127.0.0.1/tcp/80");
        assert!(addresses(&[], 9).iter().all(|a| a.contains("/9")));
    }

    #[test]
    fn the_port_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&home.path().join("data")).unwrap();
        let port = kept(&dir).unwrap();
        assert!((FIRST..LAST).contains(&port));
        assert_eq!(kept(&dir).unwrap(), port);
    }
}
