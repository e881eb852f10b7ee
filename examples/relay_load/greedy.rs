//! A thousand greedy strangers and ten members' calls at one relay.

use super::load::party;
use super::{Outcome, ask, limits, load, start};
use peerline::relay::{Limits, RelayStatus};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Calls of members, and what the relay gives to all.
const MEMBERS: usize = 10;
const ALLOCATIONS: usize = 100;

/// Packets of a flood, bytes, and how many of them to each port in a turn.
const FLOOD: usize = 1_000;
const BURST: usize = 20;

/// Runs them side by side, prints what came of it, and fails when a limit did not hold.
pub async fn run(peers: usize, seconds: usize) -> Outcome<()> {
    let bounds = Limits { allocations: ALLOCATIONS, ..limits() };
    let relay = start(bounds)?;
    let mut refused = BTreeMap::<String, u64>::new();
    let mut taken: Vec<[SocketAddr; 2]> = Vec::new();
    // Each asks for ten calls, again and again: as many as it may have, and more.
    for call in 0..10 {
        for n in 0..peers {
            match relay.allocate(ask(n, false, call)).await {
                Ok(given) => taken.push([given.ours[0], given.theirs[0]]),
                Err(why) => *refused.entry(why.to_string()).or_default() += 1,
            }
        }
    }
    let mut calls = Vec::new();
    for n in 0..MEMBERS {
        let given = relay.allocate(ask(1_000_000 + n, true, 1)).await?;
        calls.push([given.ours[0], given.theirs[0]]);
    }
    let before = settled(&relay.status().borrow());
    let start = Instant::now();
    let time = Duration::from_secs(seconds as u64);
    let greedy = taken.clone();
    let flooding = std::thread::spawn(move || flood(&greedy, time));
    let members = tokio::task::spawn_blocking(move || {
        let roads = load::over(&calls).map_err(|error| error.to_string())?;
        load::run(roads, time.saturating_sub(Duration::from_secs(1))).map_err(|error| error.to_string())
    });
    let members = members.await??;
    let flooded = flooding.join().map_err(|_| "the flood failed")??;
    let took = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = relay.status().borrow().clone();
    let passed = status.bytes - before;
    let may = (took + 2.0) * f64::from(bounds.bits_per_second) / 8.0 * (taken.len() + MEMBERS) as f64;
    let loss = members["loss"].as_f64().unwrap_or(1.0);
    let holds = taken.len() <= ALLOCATIONS / 2 && (passed as f64) <= may && loss < 0.01;
    let result = serde_json::json!({
        "peers": peers,
        "strangers_got": taken.len(),
        "refused": refused,
        "flood_mbit_per_second": flooded as f64 * 8.0 / took / 1e6,
        "passed_mbit_per_second": passed as f64 * 8.0 / took / 1e6,
        "may_pass_mbit_per_second": may * 8.0 / took / 1e6,
        "dropped": status.dropped,
        "members": members,
        "holds": holds,
    });
    println!("{result}");
    if holds { Ok(()) } else { Err("a limit did not hold".into()) }
}

fn settled(status: &RelayStatus) -> u64 {
    status.bytes
}

/// As much as it can, both ways, over every allocation; bytes sent.
fn flood(taken: &[[SocketAddr; 2]], time: Duration) -> std::io::Result<u64> {
    let packet = [0x80; FLOOD];
    let ends: Vec<(UdpSocket, SocketAddr)> =
        taken.iter().flatten().map(|to| Ok((party()?, *to))).collect::<std::io::Result<_>>()?;
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        for (socket, to) in &ends {
            for _ in 0..BURST {
                sent += socket.send_to(&packet, to)? as u64;
            }
        }
        // 30 times what each may: the flood is to fill the relay, not to take the processor from it.
        std::thread::sleep(Duration::from_millis(40));
    }
    Ok(sent)
}
