//! How many packets a second the media of one node relays: phone → leg → peer leg (sealed) → peer leg (opened) → leg →
//! phone over loopback, all on one thread. `cargo run --release --example media_rate`

use peerline::media::{LegKind, Media, MediaConfig};
use peerline::telemetry::Metrics;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TIME: Duration = Duration::from_secs(3);
/// Packets on the way at a time: fewer than a socket's buffer holds.
const BATCH: u16 = 32;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let media = Media::start(MediaConfig { ports: 20_000..=20_999, max_legs: 8 }, Metrics::default());
    let (from, to) = (UdpSocket::bind((HERE, 0)).await?, UdpSocket::bind((HERE, 0)).await?);
    let describe = |port: u16| {
        let head = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n";
        format!("{head}m=audio {port} RTP/AVP 0\r\n").into_bytes()
    };
    let (offer, answer) = (describe(from.local_addr()?.port()), describe(to.local_addr()?.port()));
    let open = |kind| media.open(kind, HERE);
    let (mut phone_a, mut peer_a) = (open(LegKind::Phone)?, open(LegKind::Peer)?);
    let (mut peer_b, mut phone_b) = (open(LegKind::Peer)?, open(LegKind::Phone)?);
    phone_a.accept(&offer).await?;
    let offer = peer_a.describe_offer(&offer).await?;
    peer_b.accept(&offer).await?;
    phone_b.describe_offer(&offer).await?;
    phone_b.accept(&answer).await?;
    let answer = peer_b.describe_answer(&answer).await?;
    peer_a.accept(&answer).await?;
    let told = String::from_utf8(phone_a.describe_answer(&answer).await?.to_vec())?;
    let port = told.split("m=audio ").nth(1).and_then(|line| line.split(' ').next()).unwrap_or_default();
    from.connect((HERE, port.parse()?)).await?;
    phone_a.join(&mut peer_a);
    peer_b.join(&mut phone_b);

    // The first packet back lifts the limit on unconfirmed addresses.
    let mut packet = [0x55; 172];
    packet[..12].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    from.send(&packet).await?;
    let mut buffer = [0; 2_048];
    let (_, back) = to.recv_from(&mut buffer).await?;
    to.send_to(&packet, back).await?;
    from.recv(&mut buffer).await?;

    let (start, mut sequence, mut relayed) = (Instant::now(), 0_u16, 0_u64);
    while start.elapsed() < TIME {
        for _ in 0..BATCH {
            sequence = sequence.wrapping_add(1);
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            from.send(&packet).await?;
        }
        for _ in 0..BATCH {
            if tokio::time::timeout(Duration::from_millis(100), to.recv(&mut buffer)).await.is_err() {
                break;
            }
            relayed += 1;
        }
    }
    let rate = relayed as f64 / start.elapsed().as_secs_f64();
    println!(
        "{rate:.0} packets/s sealed, sent, opened and delivered ({:.0} calls of 50 packets/s both ways)",
        rate / 100.0
    );
    Ok(())
}
