//! "What is wrong with my network?" answered for people: what the node knows of where it is, and every kind of path tried
//! for real, now: STUN over UDP, relays over TCP and QUIC, and a call of this node with itself through a media relay, with tones.

use crate::identity::random;
use crate::media::MediaError;
use crate::media::audio::{AudioEndpoint, Heard, Source};
use crate::overlay::{Allocation, Overlay, address_text, peer_id_text};
use crate::reachability::Reach;
use crate::wire::stun;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// Who does not answer within this is not reached. Beyond what people wait for in a call.
const PATIENCE: Duration = Duration::from_secs(2);

/// Through a relay it is two connections, one after the other.
const THROUGH_OTHERS: Duration = Duration::from_secs(4);
/// A question is sent so often: UDP loses packets.
const ASKED: u32 = 3;
/// How long the call with itself lasts: a tone is told by a second of it.
const CALL: Duration = Duration::from_millis(2_500);
/// What the two ends of that call send, Hz, and how far off what they hear may be.
const TONES: [f32; 2] = [440.0, 620.0];
const OFF_TUNE: f32 = 10.0;
/// Addresses that are tried of each kind.
const MAX_TRIED: usize = 8;

/// `GET /v1/doctor`
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    pub peers: usize,
    pub standing: String,
    /// What others see of this node.
    pub reach: Reach,
    /// Where it is reached through others.
    pub circuits: Vec<String>,
    pub listen: Vec<String>,
    pub clock_ahead_ms: Option<i64>,
    /// UDP: servers that tell where they see us.
    pub stun: Vec<StunTry>,
    /// What these answers say of the NAT's mapping (RFC 4787 §4.1), from one socket to several servers.
    pub mapping: Option<&'static str>,
    /// This node, called through each of its relays under another key.
    pub called: Vec<SelfDialled>,
    /// TCP and QUIC to the relays through which this node is reached, dialled anew until they have proved their keys.
    pub tcp: Vec<RelayDialled>,
    pub quic: Vec<RelayDialled>,
    pub relay: RelayTry,
    /// Somebody else can ring this node now, as far as it can know.
    pub can_be_called: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct StunTry {
    pub server: SocketAddr,
    /// `None`: no answer.
    pub rtt_ms: Option<u64>,
    pub seen_as: Option<SocketAddr>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RelayDialled {
    pub address: SocketAddr,
    /// Until it was connected; `None`: it was not.
    pub rtt_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SelfDialled {
    /// The circuit, as others write it.
    pub circuit: String,
    /// Until this node had proved its key to itself; `None`: it did not.
    pub rtt_ms: Option<u64>,
}

/// A call of this node with itself through a media relay.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RelayTry {
    /// The relay's peer id and where it gave ports.
    pub relay: Option<String>,
    pub address: Option<SocketAddr>,
    /// How long it took to get them.
    pub granted_ms: Option<u64>,
    /// What each end heard.
    pub heard: Vec<Heard>,
    /// Percent of packets that did not come, both directions together.
    pub loss_percent: Option<f64>,
    /// Each end heard the other's tone.
    pub good: bool,
    /// Why not, in words.
    pub words: Option<String>,
}

/// Tries everything; within some 8 s. Cancel safe: ports of the relay end with their time.
pub async fn examine(overlay: &Overlay) -> Examination {
    let status = overlay.status().borrow().clone();
    let circuits = overlay.publishable();
    let (stun, called, tcp, quic, relay) = tokio::join!(
        ask_where_we_are(overlay.stun_servers()),
        dial_itself(overlay, &status.circuits),
        dial_relays(&circuits, "tcp"),
        dial_relays(&circuits, "udp"),
        call_itself(overlay)
    );
    let through_others = called.iter().any(|tried| tried.rtt_ms.is_some());
    let can_be_called = status.peers > 0 && (status.reach.is_public() || through_others);
    Examination {
        mapping: mapping(&stun),
        peers: status.peers,
        standing: status.standing,
        reach: status.reach,
        circuits: status.circuits,
        listen: status.listen,
        clock_ahead_ms: status.clock_ahead_ms,
        stun,
        called,
        tcp,
        quic,
        relay,
        can_be_called,
    }
}

/// Asks all servers of a family from one socket: only so their answers tell the mapping.
async fn ask_where_we_are(servers: Vec<SocketAddr>) -> Vec<StunTry> {
    let (four, six): (Vec<_>, Vec<_>) = servers.into_iter().take(MAX_TRIED).partition(SocketAddr::is_ipv4);
    let (mut four, six) = tokio::join!(ask(Ipv4Addr::UNSPECIFIED.into(), four), ask(Ipv6Addr::UNSPECIFIED.into(), six));
    four.extend(six);
    four
}

async fn ask(from: IpAddr, servers: Vec<SocketAddr>) -> Vec<StunTry> {
    let silent = |server: &SocketAddr| StunTry { server: *server, rtt_ms: None, seen_as: None };
    let mut tries: Vec<StunTry> = servers.iter().map(silent).collect();
    if tries.is_empty() {
        return tries;
    }
    let Ok(socket) = UdpSocket::bind((from, 0)).await else { return tries };
    let mut buffer = [0; 1_500];
    for _ in 0..ASKED {
        let id: stun::TransactionId = random();
        let sent = Instant::now();
        for server in tries.iter().filter(|tried| tried.rtt_ms.is_none()) {
            // A server that cannot be reached from here is one that does not answer.
            let _ = socket.send_to(&stun::binding_request(&id), server.server).await;
        }
        let until = tokio::time::Instant::now() + PATIENCE / ASKED;
        while tries.iter().any(|tried| tried.rtt_ms.is_none()) {
            let Ok(Ok((length, source))) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await else {
                break;
            };
            let tried = tries.iter_mut().find(|tried| tried.server == source && tried.rtt_ms.is_none());
            if let (Some(tried), Some(seen)) = (tried, stun::parse_reply(&buffer[..length], &id)) {
                tried.rtt_ms = Some(millis(sent));
                tried.seen_as = Some(seen);
            }
        }
    }
    tries
}

/// "one" for all servers, or "per destination"; `None` with fewer than two IPv4 answers.
fn mapping(tries: &[StunTry]) -> Option<&'static str> {
    let seen: Vec<SocketAddr> = tries.iter().filter_map(|tried| tried.seen_as).filter(SocketAddr::is_ipv4).collect();
    let different: BTreeSet<SocketAddr> = seen.iter().copied().collect();
    (seen.len() >= 2).then_some(if different.len() == 1 { "one" } else { "per destination" })
}

/// Those of this node's addresses that are circuits, over one transport.
async fn dial_relays(addresses: &[Vec<u8>], transport: &str) -> Vec<RelayDialled> {
    let mut circuits = BTreeMap::new();
    for bytes in addresses {
        if let Some((named, address)) = place(&address_text(bytes))
            && named == transport
        {
            circuits.insert(address, bytes.clone());
        }
    }
    let tries = circuits.into_iter().take(MAX_TRIED).map(async |(address, circuit)| {
        let rtt_ms = Overlay::dial_relay(&circuit, PATIENCE).await.map(whole_millis);
        RelayDialled { address, rtt_ms }
    });
    futures::future::join_all(tries).await
}

/// This node through those of its addresses that are `circuits`.
async fn dial_itself(overlay: &Overlay, circuits: &[String]) -> Vec<SelfDialled> {
    let addresses = overlay.publishable();
    let tries = addresses.iter().filter(|bytes| circuits.contains(&address_text(bytes))).take(MAX_TRIED);
    let tries = tries.map(async |circuit| {
        let rtt_ms = overlay.dial_itself(circuit, THROUGH_OTHERS).await.map(whole_millis);
        SelfDialled { circuit: address_text(circuit), rtt_ms }
    });
    futures::future::join_all(tries).await
}

/// "tcp" or "udp", and where, of a circuit's address that begins with an IP address and a port.
fn place(circuit: &str) -> Option<(&str, SocketAddr)> {
    let mut parts = circuit.split('/').skip(1);
    let (family, ip, transport, port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let ip: IpAddr = ip.parse().ok()?;
    let good =
        matches!(family, "ip4" | "ip6") && matches!(transport, "tcp" | "udp") && circuit.ends_with("/p2p-circuit");
    good.then_some((transport, SocketAddr::new(ip, port.parse().ok()?)))
}

async fn call_itself(overlay: &Overlay) -> RelayTry {
    let start = Instant::now();
    let allocation = match overlay.media_relay(random(), None).await {
        Ok(allocation) => allocation,
        Err(refused) => return RelayTry { words: Some(refused.to_string()), ..RelayTry::default() },
    };
    let granted = RelayTry {
        relay: Some(peer_id_text(&allocation.relay)),
        address: Some(allocation.ours),
        granted_ms: Some(millis(start)),
        ..RelayTry::default()
    };
    let talked = talk(&allocation).await;
    overlay.release(allocation);
    match talked {
        Ok(heard) => judge(granted, heard),
        Err(error) => RelayTry { words: Some(error.to_string()), ..granted },
    }
}

async fn talk(allocation: &Allocation) -> Result<[Heard; 2], MediaError> {
    let of_family = |address: &SocketAddr| address.is_ipv4() == allocation.ours.is_ipv4();
    let theirs = Some(allocation.theirs).filter(of_family).or(allocation.theirs_too.filter(of_family));
    let theirs = theirs.ok_or(MediaError::Io("the relay has no second port of this family".to_owned()))?;
    let any: IpAddr = if theirs.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let caller = AudioEndpoint::bind(any, Source::Tone(TONES[0]), None).await?;
    let callee = AudioEndpoint::bind(any, Source::Tone(TONES[1]), None).await?;
    caller.start(&far_end(allocation.ours))?;
    callee.start(&far_end(theirs))?;
    tokio::time::sleep(CALL).await;
    Ok([caller.finish().await, callee.finish().await])
}

/// An answer that sends audio there.
fn far_end(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { "IP4" } else { "IP6" };
    let (ip, port) = (address.ip(), address.port());
    format!(
        "v=0\r\no=- 1 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=sendrecv\r\n"
    )
    .into_bytes()
}

fn judge(granted: RelayTry, heard: [Heard; 2]) -> RelayTry {
    // The caller hears the callee.
    let good = heard
        .iter()
        .zip([TONES[1], TONES[0]])
        .all(|(heard, tone)| heard.tone_hz.is_some_and(|hertz| (hertz - tone).abs() <= OFF_TUNE));
    let (came, lost) = heard.iter().fold((0, 0), |(came, lost), heard| (came + heard.packets, lost + heard.lost));
    let loss_percent = (came + lost > 0).then(|| (1_000.0 * lost as f64 / (came + lost) as f64).round() / 10.0);
    let words = (!good).then(|| match came {
        0 => "no sound came back: UDP does not pass".to_owned(),
        _ => "the sound that came back was not what was sent".to_owned(),
    });
    RelayTry { heard: heard.to_vec(), loss_percent, good, words, ..granted }
}

fn millis(since: Instant) -> u64 {
    whole_millis(since.elapsed())
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(texts: &[&str]) -> Vec<StunTry> {
        let server = SocketAddr::from(([8, 8, 8, 8], 3478));
        texts.iter().map(|text| StunTry { server, rtt_ms: Some(1), seen_as: text.parse().ok() }).collect()
    }

    #[test]
    fn a_mapping_is_told_by_two_servers_of_one_family() {
        assert_eq!(mapping(&seen(&["9.9.9.9:1"])), None);
        assert_eq!(mapping(&seen(&["9.9.9.9:1", "[2a00::1]:2"])), None);
        assert_eq!(mapping(&seen(&["9.9.9.9:1", "9.9.9.9:1", "[2a00::1]:2"])), Some("one"));
        assert_eq!(mapping(&seen(&["9.9.9.9:1", "9.9.9.9:2"])), Some("per destination"));
    }

    #[test]
    fn only_circuits_at_ip_addresses_are_dialled() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(place("/ip4/8.8.8.8/tcp/443/p2p/x/p2p-circuit"), Some(("tcp", at("8.8.8.8:443"))));
        assert_eq!(place("/ip6/2a00::1/udp/443/quic-v1/p2p/x/p2p-circuit"), Some(("udp", at("[2a00::1]:443"))));
        for no in
            ["/ip4/8.8.8.8/udp/443/quic-v1", "/dns4/a.example/tcp/443/p2p/x/p2p-circuit", "/ip4/8.8.8.8/tcp/66666", ""]
        {
            assert_eq!(place(no), None, "{no}");
        }
    }

    #[test]
    fn a_tone_that_is_not_the_others_is_no_call() {
        let heard = |hertz: f32, packets, lost| Heard { tone_hz: Some(hertz), packets, lost, ..Heard::default() };
        let good = judge(RelayTry::default(), [heard(621.0, 120, 0), heard(440.0, 118, 2)]);
        assert!(good.good && good.words.is_none());
        assert_eq!(good.loss_percent, Some(0.8));
        assert!(!judge(RelayTry::default(), [heard(440.0, 120, 0), heard(440.0, 120, 0)]).good, "its own voice");
        let silent = judge(RelayTry::default(), [Heard::default(), Heard::default()]);
        assert!(!silent.good && silent.loss_percent.is_none() && silent.words.is_some());
    }

    #[tokio::test]
    async fn a_call_with_itself_is_heard_both_ways() {
        // Two sockets that pass on to each other what came last: a relay without rules.
        let [ours, theirs] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let (ours_at, theirs_at) = (ours.local_addr().unwrap(), theirs.local_addr().unwrap());
        let sockets = [ours, theirs].map(|socket| {
            socket.set_nonblocking(true).unwrap();
            UdpSocket::from_std(socket).unwrap()
        });
        tokio::spawn(async move {
            let (mut at, mut buffers) = ([None; 2], [[0; 1_500]; 2]);
            let [one, other] = &mut buffers;
            loop {
                let (from, (length, source)) = tokio::select! {
                    came = sockets[0].recv_from(one) => (0, came.unwrap()),
                    came = sockets[1].recv_from(other) => (1, came.unwrap()),
                };
                at[from] = Some(source);
                let bytes = if from == 0 { &one[..length] } else { &other[..length] };
                if let Some(to) = at[1 - from] {
                    sockets[1 - from].send_to(bytes, to).await.unwrap();
                }
            }
        });
        let allocation = Allocation {
            call: [1; 16],
            relay: crate::identity::NodeSecret::from_bytes([1; 32]).public(),
            ours: ours_at,
            theirs: theirs_at,
            theirs_too: None,
            until: crate::clock::UnixMillis(0),
            max_bits_per_second: 0,
        };
        let tried = judge(RelayTry::default(), talk(&allocation).await.unwrap());
        assert!(tried.good, "{tried:?}");
    }
}
