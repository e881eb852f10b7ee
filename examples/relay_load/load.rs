//! Calls: packets that carry when they left, at an even pace, and what came of them.

use super::{HERE, Outcome};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// G.711, 20 ms: an RTP header and 160 bytes.
const PACKET: usize = 172;
const EVERY: Duration = Duration::from_millis(20);

/// Packets in flight at the end have this long.
const LINGER: Duration = Duration::from_millis(500);

/// One end of a call: its socket, where it sends to, and what stands before each packet (TURN's channel).
pub struct End {
    pub socket: UdpSocket,
    pub to: SocketAddr,
    pub head: Vec<u8>,
}

/// Both ends of calls, one after the other.
pub type Roads = Vec<End>;

pub fn party() -> std::io::Result<UdpSocket> {
    UdpSocket::bind((HERE, 0))
}

pub fn direct(calls: usize) -> Outcome<Roads> {
    let mut roads = Vec::new();
    for _ in 0..calls {
        let (a, b) = (party()?, party()?);
        let (at_a, at_b) = (a.local_addr()?, b.local_addr()?);
        roads.push(End { socket: a, to: at_b, head: Vec::new() });
        roads.push(End { socket: b, to: at_a, head: Vec::new() });
    }
    Ok(roads)
}

/// Over pairs of ports. Both ends have sent once when this returns, so that the relay knows them.
pub fn over(ports: &[[SocketAddr; 2]]) -> Outcome<Roads> {
    let mut roads = Vec::new();
    for to in ports.iter().flatten() {
        let socket = party()?;
        socket.send_to(&packet(Duration::ZERO), to)?;
        roads.push(End { socket, to: *to, head: Vec::new() });
    }
    std::thread::sleep(LINGER);
    Ok(roads)
}

/// RTP of PCMU by its first bytes, then when it left.
fn packet(at: Duration) -> [u8; PACKET] {
    let mut packet = [0x55; PACKET];
    packet[..4].copy_from_slice(&[0x80, 0, 0, 1]);
    packet[12..20].copy_from_slice(&(at.as_nanos() as u64).to_be_bytes());
    packet
}

/// Runs all calls and says what came of them.
pub fn run(roads: Roads, time: Duration) -> Outcome<serde_json::Value> {
    let start = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    // Before the first packet of this run, whatever is left from the introduction is read away.
    let mut waste = [0; 2_048];
    for road in &roads {
        road.socket.set_nonblocking(true)?;
        while road.socket.recv_from(&mut waste).is_ok() {}
    }
    let ears: Vec<UdpSocket> = roads.iter().map(|road| road.socket.try_clone()).collect::<Result<_, _>>()?;
    let (done, count) = (over.clone(), roads.len());
    let listening = std::thread::spawn(move || listen(ears, start, &done));
    let rounds = (time.as_secs_f64() / EVERY.as_secs_f64()) as u32;
    let step = EVERY / u32::try_from(count)?;
    let (mut sent, mut late) = (0_u64, 0_u64);
    let begin = start.elapsed();
    for round in 0..rounds {
        for (n, road) in roads.iter().enumerate() {
            let due = begin + EVERY * round + step * u32::try_from(n)?;
            let now = start.elapsed();
            // Several at once within a millisecond: a sleep for each would be more work than the packet.
            if due > now + Duration::from_micros(500) {
                std::thread::sleep(due - now);
            }
            late += u64::from(now > due + EVERY);
            let bytes = packet(start.elapsed());
            let bytes = if road.head.is_empty() { bytes.to_vec() } else { [&road.head[..], &bytes].concat() };
            match road.socket.send_to(&bytes, road.to) {
                Ok(_) => sent += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => sent += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    std::thread::sleep(LINGER);
    over.store(true, Ordering::Relaxed);
    let mut latencies = listening.join().map_err(|_| "the listener failed")??;
    latencies.sort_unstable();
    let at = |of_thousand: usize| {
        let place = (latencies.len() * of_thousand / 1_000).min(latencies.len().saturating_sub(1));
        latencies.get(place).map(|latency| *latency as f64 / 1e3)
    };
    Ok(serde_json::json!({
        "calls": count / 2,
        "seconds": time.as_secs(),
        "sent": sent,
        "heard": latencies.len(),
        "loss": 1.0 - latencies.len() as f64 / sent.max(1) as f64,
        "p50_us": at(500),
        "p99_us": at(990),
        "sender_late": late,
    }))
}

/// Reads all sockets until told to stop; latencies in nanoseconds.
fn listen(ears: Vec<UdpSocket>, start: Instant, over: &AtomicBool) -> std::io::Result<Vec<u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (heard, mut all) = tokio::sync::mpsc::unbounded_channel();
        for ear in ears {
            let (ear, heard) = (tokio::net::UdpSocket::from_std(ear)?, heard.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 2_048];
                while let Ok(length) = ear.recv(&mut buffer).await {
                    let now = start.elapsed().as_nanos() as u64;
                    // A channel's head of four bytes may stand before the packet.
                    let left = length.checked_sub(PACKET - 12).and_then(|at| buffer[at..].first_chunk::<8>());
                    if let Some(left) = left {
                        // Nobody listens any more: the run is over.
                        let _ = heard.send(now.saturating_sub(u64::from_be_bytes(*left)));
                    }
                }
            });
        }
        while !over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut latencies = Vec::new();
        while let Ok(latency) = all.try_recv() {
            latencies.push(latency);
        }
        Ok(latencies)
    })
}
