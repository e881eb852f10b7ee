//! Load for media relays: what `bench/relay-load` and `bench/relay-greedy` run.
//!
//! - `serve CALLS`: this product's relay with so many allocations; prints the ports, a line `ours theirs` each, and stays
//!   until stdin closes.
//! - `direct|ours|turn CALLS SECONDS [SERVER]`: so many calls of 50 packets of 172 bytes a second each way, directly, over
//!   ports that stdin names as `serve` prints them, or over a TURN server (RFC 8656, channels, no credentials); prints loss
//!   and latency as JSON.
//! - `greedy PEERS SECONDS`: the relay with as many greedy strangers, who take what they get and flood it, beside ten calls
//!   of members; prints what each had as JSON.

#[path = "relay_load/greedy.rs"]
mod greedy;
#[path = "relay_load/load.rs"]
mod load;
#[path = "relay_load/turn.rs"]
mod turn;

use peerline::identity::NodeKey;
use peerline::relay::{Ask, From, Limits, MediaFor, Relay, RelayConfig};
use peerline::store::Store;
use peerline::telemetry::Metrics;
use peerline::wire::AddressScope;
use std::error::Error;
use std::io::{Read, stdin};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error>>;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).ok_or("too few arguments")?.parse::<usize>().map_err(Box::<dyn Error>::from);
    match args.first().map(String::as_str) {
        Some("serve") => serve(number(1)?).await,
        Some("greedy") => greedy::run(number(1)?, number(2)?).await,
        Some(way @ ("direct" | "ours" | "turn")) => {
            let (calls, seconds) = (number(1)?, Duration::from_secs(number(2)? as u64));
            let roads = match way {
                "direct" => load::direct(calls)?,
                "ours" => load::over(&ports()?)?,
                _ => turn::roads(calls, args.get(3).ok_or("which server?")?.parse()?)?,
            };
            println!("{}", load::run(roads, seconds)?);
            Ok(())
        }
        _ => Err("serve CALLS | direct|ours|turn CALLS SECONDS [SERVER] | greedy PEERS SECONDS".into()),
    }
}

/// Ports of allocations, as `serve` prints them.
fn ports() -> Outcome<Vec<[SocketAddr; 2]>> {
    let mut text = String::new();
    stdin().read_to_string(&mut text)?;
    let pair = |line: &str| {
        let mut ports = line.split_whitespace().map(str::parse);
        Ok([ports.next().ok_or("a line without ports")??, ports.next().ok_or("a line with one port")??])
    };
    text.lines().map(pair).collect()
}

fn limits() -> Limits {
    Limits {
        allocations: 1_000,
        per_peer: 4,
        per_network: 8,
        bits_per_second: 256_000,
        bytes_per_month: 500_000_000_000,
        granted: Duration::from_secs(7_200),
    }
}

fn start(limits: Limits) -> Outcome<Relay> {
    let config =
        RelayConfig { media: MediaFor::Anyone, limits, ports: 30_000..=32_767, stun: None, scope: AddressScope::Any };
    Ok(Relay::start(config, Store::temporary()?, &Metrics::default())?)
}

/// Node `n`, seen in a network of its own.
fn ask(n: usize, member: bool, call: u8) -> Ask {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    let ip = Ipv4Addr::from(0x0b00_0001 + ((n as u32) << 8));
    let from = From { node: NodeKey(key), ip: Some(ip.into()), member };
    Ask { from, call: [call; 16], seconds: 3_600, far: None, public: vec![HERE] }
}

async fn serve(calls: usize) -> Outcome<()> {
    let relay = start(limits())?;
    for n in 0..calls {
        let given = relay.allocate(ask(n, true, 1)).await?;
        println!("{} {}", given.ours[0], given.theirs[0]);
    }
    println!();
    tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
