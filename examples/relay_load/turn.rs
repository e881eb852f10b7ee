//! As much of a TURN client (RFC 8656) as carries calls over a server that asks for no credentials: Allocate, ChannelBind.

use super::Outcome;
use super::load::{End, Roads, party};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
const CHANNEL: u16 = 0x4000;

/// A client with an allocation and a channel to its peer for each call.
pub fn roads(calls: usize, server: SocketAddr) -> Outcome<Roads> {
    let mut roads = Vec::new();
    for _ in 0..calls {
        let (client, peer) = (party()?, party()?);
        client.set_read_timeout(Some(Duration::from_secs(3)))?;
        // UDP, §14.7.
        let relayed = ask(&client, server, ALLOCATE, &[(0x0019, vec![17, 0, 0, 0])])?;
        let relayed = address(&relayed, 0x0016).ok_or("no relayed address")?;
        let channel = [&CHANNEL.to_be_bytes()[..], &[0, 0]].concat();
        ask(&client, server, CHANNEL_BIND, &[(0x000c, channel), (0x0012, masked(peer.local_addr()?)?)])?;
        let head = [CHANNEL.to_be_bytes(), 172_u16.to_be_bytes()].concat();
        roads.push(End { socket: client, to: server, head });
        roads.push(End { socket: peer, to: relayed, head: Vec::new() });
    }
    Ok(roads)
}

fn ask(client: &UdpSocket, server: SocketAddr, method: u16, attributes: &[(u16, Vec<u8>)]) -> Outcome<Vec<u8>> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend(kind.to_be_bytes());
        body.extend(u16::try_from(value.len())?.to_be_bytes());
        body.extend(value);
    }
    let length = u16::try_from(body.len())?.to_be_bytes();
    let request = [&method.to_be_bytes()[..], &length, &COOKIE, &[7; 12], &body].concat();
    client.send_to(&request, server)?;
    let mut buffer = [0; 1_024];
    let (length, _) = client.recv_from(&mut buffer)?;
    let reply = buffer[..length].to_vec();
    let wanted = (method | 0x0100).to_be_bytes();
    if reply.get(..2) == Some(&wanted[..]) { Ok(reply) } else { Err(format!("refused: {reply:02x?}").into()) }
}

/// An XOR-ed IPv4 address of a reply.
fn address(reply: &[u8], wanted: u16) -> Option<SocketAddr> {
    let mut rest = reply.get(20..)?;
    while let [k1, k2, l1, l2, tail @ ..] = rest {
        let (kind, length) = (u16::from_be_bytes([*k1, *k2]), usize::from(u16::from_be_bytes([*l1, *l2])));
        if kind == wanted {
            let port = u16::from_be_bytes([*tail.get(2)?, *tail.get(3)?]) ^ 0x2112;
            let ip: [u8; 4] = std::array::from_fn(|at| tail.get(4 + at).copied().unwrap_or(0) ^ COOKIE[at]);
            return Some((ip, port).into());
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn masked(address: SocketAddr) -> Outcome<Vec<u8>> {
    let SocketAddr::V4(address) = address else { return Err("IPv4 only".into()) };
    let ip = address.ip().octets();
    let ip: Vec<u8> = ip.iter().zip(COOKIE).map(|(byte, key)| byte ^ key).collect();
    Ok([&[0, 1][..], &(address.port() ^ 0x2112).to_be_bytes(), &ip].concat())
}
