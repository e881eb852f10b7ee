//! When a client may serve, and who is taken for a client though it serves (SECURITY §4.9, §5.2 of the draft). Pure.
//!
//! In a small overlay everybody serves who was dialled directly. In a larger one a server must be worth the seniority
//! that it gathers: dialable for others, confirmed by three networks that it did not choose, and there for a while. What
//! peers confirm gives a role and no trust: liars can confirm one another, and win nothing but work.

mod flapping;

pub use flapping::Flapping;

use super::Network;
use crate::clock::UnixMillis;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Overlays below this let every node serve that was dialled directly; above twice this only those who are eligible.
const SMALL: f64 = 200.0;

/// Networks that must have dialled us, each within this time.
const CONFIRMATIONS: usize = 3;
const CONFIRMED: Duration = Duration::from_secs(24 * 3_600);

/// Networks remembered.
const MOST: usize = 64;

/// Uptime of this session, and of the last seven days.
const SESSION: Duration = Duration::from_secs(2 * 3_600);
const WEEK: Duration = Duration::from_secs(24 * 3_600);

/// Days that are counted.
const DAYS: usize = 7;
const DAY_MS: u64 = 86_400_000;

/// Seconds of uptime on the last days, kept across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uptime {
    /// Day since 1970, and seconds; the newest last.
    days: Vec<(u64, u64)>,
}

impl Uptime {
    /// This node was up for `passed` until now.
    pub fn add(&mut self, passed: Duration, now: UnixMillis) {
        let day = now.0 / DAY_MS;
        // A clock that was set back starts a day of its own no more than once.
        match self.days.iter_mut().find(|(other, _)| *other == day) {
            Some((_, seconds)) => *seconds = (*seconds + passed.as_secs()).min(86_400),
            None => self.days.push((day, passed.as_secs().min(86_400))),
        }
        self.days.retain(|(other, _)| *other <= day && day - *other < DAYS as u64);
    }

    /// Of the last seven days.
    pub fn total(&self) -> Duration {
        Duration::from_secs(self.days.iter().map(|(_, seconds)| seconds).sum())
    }

    /// 16 bytes for each day.
    pub fn encode(&self) -> Vec<u8> {
        self.days.iter().flat_map(|(day, seconds)| [day.to_be_bytes(), seconds.to_be_bytes()]).flatten().collect()
    }

    /// What makes no sense is left out.
    pub fn decode(bytes: &[u8]) -> Self {
        let days = bytes.chunks_exact(16).take(DAYS).filter_map(|row| {
            let (day, seconds) = row.split_first_chunk::<8>()?;
            let seconds = u64::from_be_bytes(seconds.try_into().ok()?);
            Some((u64::from_be_bytes(*day), seconds.min(86_400)))
        });
        Self { days: days.collect() }
    }
}

/// Whether this node serves.
#[derive(Debug)]
pub struct Promotion {
    forced: Option<bool>,
    started: Instant,
    uptime: Uptime,
    counted: Instant,
    /// Systems from which somebody dialled us over the open network, and when last.
    confirmed: HashMap<u64, Instant>,
    /// Somebody dialled us at all: over the open network, or at least over a private one.
    dialled: bool,
    dialled_privately: bool,
    serves: bool,
}

impl Promotion {
    /// `forced`: the operator's word (`--server on|off`), before all rules. `uptime`: of earlier sessions.
    pub fn new(forced: Option<bool>, uptime: Uptime, now: Instant) -> Self {
        Self {
            forced,
            started: now,
            uptime,
            counted: now,
            confirmed: HashMap::new(),
            dialled: false,
            dialled_privately: false,
            serves: forced.unwrap_or(false),
        }
    }

    /// Somebody's connection came in directly; `openly` over the network that the overlay lives in, else over a private
    /// one.
    pub fn dialled_by(&mut self, from: &Network, openly: bool, now: Instant) {
        if !openly {
            self.dialled_privately = true;
            return;
        }
        self.dialled = true;
        if self.confirmed.len() < MOST || self.confirmed.contains_key(&from.system) {
            self.confirmed.insert(from.system, now);
        }
    }

    /// The addresses changed: who reached us, reached another place.
    pub fn moved(&mut self) {
        self.confirmed.clear();
    }

    /// Whether this node is to serve now. `nodes`: the overlay's estimated size. `reaches_open`: it reached somebody over
    /// the open network, so that being dialled over a private one says nothing.
    pub fn decide(&mut self, nodes: f64, reaches_open: bool, now: Instant, wall: UnixMillis) -> bool {
        let passed = now.saturating_duration_since(self.counted);
        if passed >= Duration::from_secs(60) {
            self.counted = now;
            // More than this at once was sleep.
            self.uptime.add(passed.min(Duration::from_secs(600)), wall);
        }
        self.confirmed.retain(|_, at| now.saturating_duration_since(*at) < CONFIRMED);
        let limit = if self.serves { 2.0 * SMALL } else { SMALL };
        let reached = self.dialled || (self.dialled_privately && !reaches_open);
        self.serves = self.forced.unwrap_or((reached && nodes < limit) || self.is_eligible(now));
        self.serves
    }

    /// Eligible to serve in an overlay of any size.
    pub fn is_eligible(&self, now: Instant) -> bool {
        self.confirmed.len() >= CONFIRMATIONS
            && now.saturating_duration_since(self.started) >= SESSION
            && self.uptime.total() >= WEEK
    }

    /// To be kept.
    pub fn uptime(&self) -> &Uptime {
        &self.uptime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: UnixMillis = UnixMillis(1_800_000_000_000);

    fn from(n: u8) -> Network {
        Network::of([8, n, 8, 8].into())
    }

    /// Decides once a minute for so many hours.
    fn run(promotion: &mut Promotion, nodes: f64, now: &mut Instant, wall: &mut UnixMillis, hours: u64) -> bool {
        let mut serves = false;
        for _ in 0..hours * 60 {
            *now += Duration::from_secs(60);
            wall.0 += 60_000;
            serves = promotion.decide(nodes, true, *now, *wall);
        }
        serves
    }

    #[test]
    fn in_a_small_overlay_who_was_dialled_serves() {
        let now = Instant::now();
        let mut promotion = Promotion::new(None, Uptime::default(), now);
        assert!(!promotion.decide(10.0, false, now, WALL));
        promotion.dialled_by(&from(1), false, now);
        assert!(promotion.decide(10.0, false, now, WALL));
        assert!(!promotion.decide(10.0, true, now, WALL), "a private network is not the open one");
        promotion.dialled_by(&from(1), true, now);
        assert!(promotion.decide(10.0, true, now, WALL));
        assert!(promotion.decide(300.0, true, now, WALL), "no flapping between 200 and 400");
        assert!(!promotion.decide(401.0, true, now, WALL));
        assert!(!promotion.decide(300.0, true, now, WALL));
    }

    #[test]
    fn in_a_large_one_only_who_is_eligible() {
        let (mut now, mut wall) = (Instant::now(), WALL);
        let mut promotion = Promotion::new(None, Uptime::default(), now);
        for _ in 0..3 {
            promotion.dialled_by(&from(1), true, now);
        }
        assert!(!run(&mut promotion, 1e6, &mut now, &mut wall, 25), "one network is no three");
        for network in 1..=3 {
            promotion.dialled_by(&from(network), true, now);
        }
        assert!(promotion.decide(1e6, true, now, wall));
        // A restart: the week is kept, the session begins anew.
        let uptime = Uptime::decode(&promotion.uptime().encode());
        assert_eq!(uptime, *promotion.uptime());
        let mut promotion = Promotion::new(None, uptime, now);
        for network in 1..=3 {
            promotion.dialled_by(&from(network), true, now);
        }
        assert!(!run(&mut promotion, 1e6, &mut now, &mut wall, 1));
        assert!(run(&mut promotion, 1e6, &mut now, &mut wall, 2));
        promotion.moved();
        assert!(!promotion.decide(1e6, true, now, wall));
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let now = Instant::now();
        assert!(Promotion::new(Some(true), Uptime::default(), now).decide(1e6, true, now, WALL));
        let mut off = Promotion::new(Some(false), Uptime::default(), now);
        off.dialled_by(&from(1), true, now);
        assert!(!off.decide(2.0, true, now, WALL));
    }
}
