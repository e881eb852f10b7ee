//! Spreads packets that came in bursts: a stream of bytes holds everything back while one part of it is lost, and a phone
//! throws away what comes in a heap. Packets go on at the pace of their timestamps, behind the earliest by as much as the
//! latest of late were, at most 300 ms. Pure: the time is an argument.
//!
//! The pace is learnt: nobody says here how many ticks of a timestamp are a second. Until it is known packets go on at once.

use crate::media::packet::{self, Kind};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longest that a packet is held.
const LONGEST: Duration = Duration::from_millis(300);
/// Held at least by: the grain of timers.
const SHORTEST: Duration = Duration::from_millis(10);
/// Packets that the delay is taken from: five seconds of speech.
const MEMORY: usize = 256;
/// Packets held: more than 300 ms have of any kind of sound.
const MOST_HELD: usize = 128;
/// Ticks a second that sound and picture have (RFC 3551, RFC 7587).
const RATES: [f64; 6] = [8_000.0, 16_000.0, 24_000.0, 32_000.0, 48_000.0, 90_000.0];
/// How long the pace is watched at least, how near it must be to one of the rates, and when the watch begins anew.
const LEARNING: Duration = Duration::from_millis(500);
const NEAR: f64 = 0.1;
const UNKNOWN: Duration = Duration::from_secs(10);
/// A timestamp that jumps by more begins anew.
const JUMP: f64 = 2.0;

#[derive(Default)]
pub(super) struct Spread {
    pace: Option<Pace>,
    held: VecDeque<(Instant, Vec<u8>)>,
}

/// Of one source.
struct Pace {
    ssrc: u32,
    timestamp: u32,
    since: Instant,
    rate: Option<f64>,
    /// Seconds that each of the last packets came after the time that its timestamp says.
    late: VecDeque<f64>,
}

impl Pace {
    fn new(ssrc: u32, timestamp: u32, since: Instant) -> Pace {
        Pace { ssrc, timestamp, since, rate: None, late: VecDeque::new() }
    }

    /// How long a packet that comes now is held; `None`: it is from elsewhere, or from another time.
    fn hold(&mut self, ssrc: u32, timestamp: u32, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.since);
        // Signed: packets may come in any order.
        let ticks = f64::from(timestamp.wrapping_sub(self.timestamp).cast_signed());
        if ssrc != self.ssrc {
            return None;
        }
        let Some(rate) = self.rate else {
            if elapsed >= LEARNING {
                let measured = ticks / elapsed.as_secs_f64();
                let off = |rate: &f64| (rate / measured).ln().abs();
                let nearest = RATES.into_iter().min_by(|a, b| off(a).total_cmp(&off(b)));
                self.rate = nearest.filter(|rate| off(rate) < NEAR);
            }
            return Some(Duration::ZERO).filter(|_| elapsed < UNKNOWN);
        };
        let late = elapsed.as_secs_f64() - ticks / rate;
        if self.late.back().is_some_and(|before| (late - before).abs() > JUMP) {
            return None;
        }
        if self.late.len() >= MEMORY {
            self.late.pop_front();
        }
        self.late.push_back(late);
        let earliest = self.late.iter().copied().fold(f64::INFINITY, f64::min);
        let latest = self.late.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let delay = (latest - earliest).clamp(SHORTEST.as_secs_f64(), LONGEST.as_secs_f64());
        Some(Duration::from_secs_f64((earliest + delay - late).clamp(0.0, LONGEST.as_secs_f64())))
    }
}

impl Spread {
    /// A packet came.
    pub(super) fn put(&mut self, packet: &[u8], now: Instant) {
        let header = packet::read(packet).filter(|header| header.kind == Kind::Rtp);
        let hold = header.map_or(Duration::ZERO, |header| {
            let held = self.pace.as_mut().and_then(|pace| pace.hold(header.ssrc, header.timestamp, now));
            if held.is_none() {
                self.pace = Some(Pace::new(header.ssrc, header.timestamp, now));
            }
            held.unwrap_or_default()
        });
        // In order, whatever the delay does.
        let due = (now + hold).max(self.held.back().map_or(now, |(due, _)| *due));
        self.held.push_back((due, packet.to_vec()));
    }

    /// When the next one goes on.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held.front().map(|(due, _)| *due)
    }

    /// The next one that goes on by now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        let full = self.held.len() > MOST_HELD;
        self.held.pop_front_if(|(due, _)| full || *due <= now).map(|(_, packet)| packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts packets of 20 ms in at the times that `arrives` says (milliseconds), and tells when each came out.
    fn run(rate: u32, arrives: impl Fn(u32) -> u64, count: u32) -> Vec<u64> {
        let start = Instant::now();
        let mut spread = Spread::default();
        let mut came = Vec::new();
        let (mut next, mut millis) = (0, 0);
        while (came.len() as u32) < count {
            let now = start + Duration::from_millis(millis);
            while next < count && arrives(next) <= millis {
                let mut packet = Vec::new();
                packet::write_rtp(
                    &mut packet,
                    false,
                    (0, next as u16, 0_u32.wrapping_sub(999).wrapping_add(next * rate / 50), 5),
                    &[1; 20],
                );
                spread.put(&packet, now);
                next += 1;
            }
            while spread.take(now).is_some() {
                came.push(millis);
            }
            assert!(spread.held.len() <= MOST_HELD);
            millis += 1;
        }
        came
    }

    /// Packets of 20 ms; every two seconds everything is held back for so long.
    fn bursts(pause: u64) -> impl Fn(u32) -> u64 {
        move |n| {
            let sent = u64::from(n) * 20;
            let within = sent % 2_000;
            if within < pause { sent - within + pause } else { sent }
        }
    }

    #[test]
    fn bursts_come_out_evenly_once_they_are_known() {
        for rate in [8_000, 16_000, 48_000] {
            let came = run(rate, bursts(160), 1_000);
            let worst = came.windows(2).skip(300).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(worst <= 45, "{worst} ms between two packets of {rate} Hz");
            let delay = came.iter().enumerate().skip(300).map(|(n, at)| at - n as u64 * 20).max().unwrap();
            assert!(delay <= 200, "{delay} ms");
        }
    }

    #[test]
    fn an_even_stream_is_not_held_up() {
        let came = run(8_000, |n| u64::from(n) * 20 + 30, 500);
        assert!(came.iter().enumerate().all(|(n, at)| at - n as u64 * 20 <= 45));
    }

    #[test]
    fn nothing_is_held_for_longer_than_it_may_be() {
        let came = run(8_000, bursts(900), 1_000);
        let arrived = bursts(900);
        assert!(came.iter().enumerate().all(|(n, at)| at - arrived(n as u32) <= 301));
    }

    #[test]
    fn other_sources_and_jumps_begin_anew() {
        let (mut spread, mut now) = (Spread::default(), Instant::now());
        for n in 0..2_000_u32 {
            let mut packet = Vec::new();
            let (ssrc, jump) = (n / 300, if n % 97 == 0 { 1 << 30 } else { 0 });
            packet::write_rtp(&mut packet, false, (0, n as u16, n * 160 + jump, ssrc), &[1; 20]);
            spread.put(&packet, now);
            now += Duration::from_millis(20);
            while spread.take(now).is_some() {}
            assert!(spread.held.len() < 20);
        }
        spread.put(b"\x80\xc9\x00\x01\x00\x00\x00\x01", now);
        spread.put(b"nonsense", now);
        now += LONGEST;
        while spread.take(now).is_some() {}
        assert_eq!(spread.due(), None);
    }
}
