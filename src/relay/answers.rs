//! Answers to STUN Binding requests (RFC 8489 §12): where a request came from, and nothing else. No state but the rates;
//! an answer is at most one and a half times what the request was on the wire, so that nobody is flooded by it.

use super::counts::Counts;
use super::places::Places;
use super::socket::Socket;
use crate::admission::{Bucket, PerSource, Rate, Subnet};
use crate::wire::is_global;
use crate::wire::stun::{self, TransactionId};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Instant;

/// Of one /24 or /48: a call needs a handful, a carrier's NAT has a thousand subscribers. 40 bytes each.
const PER_NETWORK: Rate = Rate { per_second: 20.0, burst: 100.0 };
const MAX_NETWORKS: usize = 4_096;

/// Of all together: 2,000 answers a second are 1.1 Mbit/s.
const ALL: Rate = Rate { per_second: 2_000.0, burst: 2_000.0 };

/// A request is short; what is longer is cut, and none then.
const BUFFER: usize = 548;

/// Requests in a row; then others have their turn.
const BATCH: usize = 32;

/// Whom to answer. Pure.
pub(super) struct Answers {
    places: Places,
    per_network: PerSource<Subnet>,
    all: Bucket,
}

impl Answers {
    /// `places`: answers go nowhere else.
    pub(super) fn new(places: Places, now: Instant) -> Self {
        Self { places, per_network: PerSource::new(PER_NETWORK, MAX_NETWORKS), all: Bucket::full(ALL, now) }
    }

    pub(super) fn answer(&mut self, datagram: &[u8], from: SocketAddr, now: Instant) -> Option<Vec<u8>> {
        let id: TransactionId = stun::parse_request(datagram).filter(|_| self.places.allow(from))?;
        // In a network of any addresses one /24 is everybody.
        let network = !is_global(from.ip()) || self.per_network.take(Subnet::of(from.ip()), now);
        if !network || !self.all.take(ALL, now) {
            return None;
        }
        let reply = stun::binding_reply(&id, from);
        let headers = headers(from);
        let fits = (reply.len() + headers) * 2 <= (datagram.len() + headers) * 3;
        fits.then_some(reply)
    }
}

/// Bytes that stand before a datagram on the wire: IP and UDP.
fn headers(at: SocketAddr) -> usize {
    if at.ip().to_canonical().is_ipv4() { 28 } else { 48 }
}

/// Until it is aborted.
pub(super) async fn run(socket: Socket, mut answers: Answers, counts: Counts) {
    let mut buffer = [0; BUFFER];
    loop {
        poll_fn(|cx| socket.poll_readable(cx)).await;
        for _ in 0..BATCH {
            match socket.receive(&mut buffer) {
                Ok((length, from)) => match answers.answer(&buffer[..length], from, Instant::now()) {
                    Some(reply) if socket.send(&reply, from).is_ok() => drop(counts.answered.inc()),
                    _ => drop(counts.unanswered.inc()),
                },
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::AddressScope;
    use std::time::Duration;

    fn answers(now: Instant) -> Answers {
        #[allow(clippy::reversed_empty_ranges, reason = "a relay without ports")]
        let none = 1..=0;
        Answers::new(Places::new(AddressScope::Global, &[], none), now)
    }

    #[test]
    fn tells_who_asks_where_it_is_and_never_much_more_than_it_said() {
        let now = Instant::now();
        let mut answers = answers(now);
        let bare = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        for source in ["8.8.8.8:1", "[2a00::1]:1"] {
            let from: SocketAddr = source.parse().unwrap();
            for request in [&bare, &stun::binding_request(&[7; 12])] {
                let reply = answers.answer(request, from, now).unwrap();
                assert_eq!(stun::parse_reply(&reply, &[7; 12]), Some(from));
                let headers = if from.is_ipv4() { 28 } else { 48 };
                assert!((reply.len() + headers) as f64 <= 1.5 * (request.len() + headers) as f64);
            }
        }
        for junk in [&bare[..19], &[][..], &[0x80; 40], &stun::binding_reply(&[7; 12], "8.8.8.8:1".parse().unwrap())] {
            assert_eq!(answers.answer(junk, "8.8.8.8:1".parse().unwrap(), now), None);
        }
        for place in ["10.0.0.1:1", "127.0.0.1:1", "224.0.0.1:1", "8.8.8.8:0"] {
            assert_eq!(answers.answer(&bare, place.parse().unwrap(), now), None, "{place}");
        }
    }

    #[test]
    fn a_network_and_all_have_their_rates() {
        let now = Instant::now();
        let mut answers = answers(now);
        let request = stun::binding_request(&[1; 12]);
        let mut asked = |from: String, now| answers.answer(&request, from.parse().unwrap(), now).is_some();
        let one = (0..1_000).filter(|n| asked(format!("8.8.8.{}:1", n % 250), now)).count();
        assert_eq!(one, 100);
        assert!(asked("8.8.9.1:1".into(), now), "another network");
        let all = (0..10_000).filter(|n| asked(format!("9.{}.{}.1:1", n / 250, n % 250), now)).count();
        assert!(all <= 2_000, "{all}");
        assert!(asked("8.8.8.8:1".into(), now + Duration::from_secs(1)));
    }
}
