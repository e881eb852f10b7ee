//! Who is known: servers that this node itself dialled, authenticated and had a correct answer from (SECURITY §4.3).
//! Buckets for the way, the neighbourhood for the region; old friends first.
//!
//! ```text
//! verified ─▶ bucket by shared bits ─▶ room?  20 places each, all of the neighbourhood, more while the table is small
//!                                      networks within the caps?  a place of its own : one until somebody needs it
//!                                      no room ─▶ 16 wait
//! ```
//!
//! Nobody alive with a place of its own gives way to a newcomer, so that keys made by the thousand win nothing against
//! those who were there before. Caps are a preference: an office in one /24 fills its tables with itself.

mod age;
mod answer;
mod bucket;
mod estimate;
mod places;
#[cfg(test)]
mod tests;

use super::{Caps, Card, Distance, Network, Position, REGION};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use bucket::{Bucket, Entry, K, Standing, find, head, seconds};
use estimate::Places;
use std::net::IpAddr;
use std::sync::Arc;

/// What a table did with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// In the table now, or still.
    In,
    /// Kept in mind for when there is room.
    Waits,
    /// Not a server, the node itself, or no room to remember it.
    No,
}

/// How large the overlay is, and how wide a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Servers, this node included; at least 1.
    pub nodes: f64,
}

impl Estimate {
    /// Radius of a region as a share of the space, at most 1: `REGION / nodes`.
    pub fn region(&self) -> f64 {
        (REGION as f64 / self.nodes.max(1.0)).min(1.0)
    }
}

/// How often peers are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Of a server: the neighbourhood every 20 minutes, others every hour. A probe that has to dial costs about 5 kB:
    /// 40 and 220 peers are 4 kbit/s at most, less by all that requests verify on the way.
    Server,
    /// Of a client: every 10 hours, 0.2 kbit/s; nobody relies on its answers.
    Client,
}

/// The neighbourhood: everybody within this many regions' radius, rounded up to whole buckets (40 to 80 expected), at
/// most so many.
const NEIGHBOURHOOD: f64 = 4.0;
const MAX_NEIGHBOURS: usize = 256;

/// While fewer are known than this, buckets take more than their 20: a small overlay is known as a whole, and far
/// buckets of a large one, in which the first step of most walks is made, are larger.
const ROOM: usize = 256;

/// Deepest bucket: beyond so many shared bits lie only ground ids.
const DEEPEST: u32 = 63;

/// Caps of the whole table: of one /24, and of one system as a share of it but at least so many.
const TABLE_SUBNET: usize = 10;
const TABLE_SYSTEM_SHARE: usize = 20;
const TABLE_SYSTEM_FLOOR: usize = 8;

/// A crowd: more of one /24 than the table's cap, or of one /16 than a quarter of it, at least so many.
const CROWD_SHARE: usize = 4;
const CROWD_FLOOR: usize = 16;

/// Failures in a row after which a peer is out, and how far apart they must be to count, seconds: three requests that
/// fail at once are one failure.
const MAX_FAILURES: u8 = 3;
const FAILURES_APART: u32 = 5;

/// Probes: again after a failure, and of those that were lost while nobody else answered either, seconds.
const AGAIN: u32 = 20;
const LOST_AGAIN: u32 = 300;

/// A clock that is set back by no more than this is a correction, seconds.
const CLOCK_SLACK: u32 = 60;

/// Standings are looked through after so many changes.
const LOOK_AFTER: u16 = 64;

/// The table. Bounded: 256 peers or 20 for each doubling of the overlay, 256 neighbours, 16 waiting for each bucket.
#[derive(Clone, Debug)]
pub struct Table {
    here: Position,
    head: u64,
    buckets: Vec<Bucket>,
    len: usize,
    places: Places,
    nodes: f64,
    /// Distances up to this, in 64 bits, are the neighbourhood: a power of two less one.
    near: u64,
    changes: u16,
    pace: Pace,
    /// Last answer of anybody, seconds.
    answered_at: u32,
    clock: age::Clock,
}

impl Table {
    pub fn new(here: Position) -> Self {
        Self {
            here,
            head: head(&here),
            buckets: Vec::new(),
            len: 0,
            places: Places::default(),
            nodes: 1.0,
            near: u64::MAX,
            changes: 0,
            pace: Pace::Server,
            answered_at: 0,
            clock: age::Clock::default(),
        }
    }

    /// How often [`Table::probes`] has somebody probed; a server's pace at first.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// A server that was dialled at `ip`, authenticated, and gave a correct answer. `first_seen` is kept from before
    /// when it is known and has not moved to another network, else it is `now`.
    pub fn verified(&mut self, card: Arc<Card>, ip: IpAddr, now: UnixMillis) -> Admission {
        self.meet(card, ip, None, now, false)
    }

    /// As [`Table::verified`], of a peer that dialled us first, was dialled back at `ip` and gave a correct answer. It
    /// gives way to all whom this node finds by itself, until it is one of them: whoever floods us with visitors wins no
    /// place.
    pub fn verified_visitor(&mut self, card: Arc<Card>, ip: IpAddr, now: UnixMillis) -> Admission {
        self.meet(card, ip, None, now, true)
    }

    /// As [`Table::verified`], of a peer that an earlier session knew since `first_seen` (peer cache, tests, simulator).
    pub fn restored(&mut self, card: Arc<Card>, ip: IpAddr, first_seen: UnixMillis, now: UnixMillis) -> Admission {
        self.meet(card, ip, Some(first_seen), now, false)
    }

    fn meet(
        &mut self,
        card: Arc<Card>,
        ip: IpAddr,
        since: Option<UnixMillis>,
        now: UnixMillis,
        inbound: bool,
    ) -> Admission {
        if card.position == self.here {
            return Admission::No;
        }
        self.tick(now);
        let clock = seconds(now);
        self.answered_at = clock;
        let network = Network::of(ip);
        let index = self.index(&card.position);
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Bucket::default);
        }
        let known = |entry: &&Entry| entry.is(&card.position);
        let bucket = &self.buckets[index];
        let known = bucket.members.iter().find(known).or_else(|| bucket.waiting.iter().find(known));
        let moved = known.and_then(|entry| entry.moves_to(network, &card.addresses));
        if let Some(to) = moved {
            self.moved(index, &card.position, to, now);
        }
        let since = since.filter(|_| moved.is_none());
        let bucket = &mut self.buckets[index];
        if let Some(entry) = find(&mut bucket.members, &card.position) {
            entry.touch(&card, network, since, clock, inbound);
            if since.is_some() {
                bucket.members.sort_by_key(|entry| entry.first_seen);
            }
            return Admission::In;
        }
        let mut entry = Entry {
            head: head(&card.position),
            card,
            network,
            first_seen: since.unwrap_or(now),
            verified_at: clock,
            tried_at: 0,
            failed_at: 0,
            failures: 0,
            standing: Standing::Diverse,
            inbound,
        };
        if let Some(at) = bucket.waiting.iter().position(|other| other.is(&entry.card.position)) {
            let mut old = bucket.waiting.remove(at);
            old.touch(&entry.card, network, since, clock, inbound);
            entry = old;
        }
        self.place(index, entry)
    }

    /// A later card of a peer that is known.
    pub fn renew(&mut self, card: &Arc<Card>) {
        let index = self.index(&card.position);
        if let Some(bucket) = self.buckets.get_mut(index) {
            for list in [&mut bucket.members, &mut bucket.waiting] {
                if let Some(entry) = find(list, &card.position).filter(|e| e.card.issued_at < card.issued_at) {
                    entry.card = card.clone();
                }
            }
        }
    }

    /// A scheduled probe or a request of our own failed to reach it. Three in a row, each 5 s or more after the one
    /// before, and it is out; it is kept in mind when nobody else answered meanwhile either, as the fault may be ours.
    pub fn failed(&mut self, node: &NodeKey, now: UnixMillis) {
        self.tick(now);
        let position = Position::of_node(node);
        let (index, clock) = (self.index(&position), seconds(now));
        let answered_at = self.answered_at;
        let Some(bucket) = self.buckets.get_mut(index) else { return };
        let counts = |entry: &Entry| entry.failures == 0 || clock.abs_diff(entry.failed_at) >= FAILURES_APART;
        if let Some(entry) = find(&mut bucket.waiting, &position) {
            entry.tried_at = clock;
            if counts(entry) {
                (entry.failed_at, entry.failures) = (clock, entry.failures.saturating_add(1));
                if answered_at > entry.verified_at && entry.failures >= MAX_FAILURES {
                    bucket.waiting.retain(|other| !other.is(&position));
                }
            }
            return;
        }
        let Some(entry) = find(&mut bucket.members, &position) else { return };
        entry.tried_at = clock;
        if !counts(entry) {
            return;
        }
        entry.failed_at = clock;
        entry.failures += 1;
        if entry.failures >= MAX_FAILURES {
            let lost = entry.clone();
            self.take_out(index, &position);
            if answered_at <= lost.verified_at {
                self.buckets[index].keep_waiting(lost);
            }
        }
    }

    /// Out at once: it does not serve any more, or the ledger says so.
    pub fn remove(&mut self, node: &NodeKey) {
        let position = Position::of_node(node);
        let index = self.index(&position);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.waiting.retain(|other| !other.is(&position));
            self.take_out(index, &position);
        }
    }

    /// Whose turn it is to be probed, at most `max`, the longest overdue first; on the table's own timetable, which no
    /// newcomer can hurry. Each is noted as tried at `now`.
    pub fn probes(&mut self, now: UnixMillis, max: usize) -> Vec<Arc<Card>> {
        self.tick(now);
        let clock = seconds(now);
        let (pace, near, here) = (self.pace, self.near, self.head);
        let pause = |entry: &Entry| {
            let pause = match pace {
                _ if entry.failures >= MAX_FAILURES => LOST_AGAIN,
                _ if entry.failures > 0 => AGAIN,
                Pace::Server if entry.head ^ here <= near => 1_200,
                Pace::Server => 3_600,
                // Asked by nobody, it needs only enough to begin a walk with.
                Pace::Client => 36_000,
            };
            // Spread by up to an eighth, or peers met together would be probed together for ever.
            pause + pause * (entry.head & 0xff) as u32 / 2_048
        };
        let mut due: Vec<(u32, &mut Entry)> = Vec::new();
        for bucket in &mut self.buckets {
            let lost = bucket.waiting.iter_mut().filter(|entry| entry.failures > 0);
            for entry in bucket.members.iter_mut().chain(lost) {
                // Times that a clock which was ahead wrote down are as good as never.
                let past = |at: u32| if at > clock.saturating_add(CLOCK_SLACK) { 0 } else { at };
                let since = clock.saturating_sub(past(entry.verified_at).max(past(entry.tried_at)));
                if let Some(late) = since.checked_sub(pause(entry)) {
                    due.push((late, entry));
                }
            }
        }
        due.sort_unstable_by_key(|(late, entry)| (std::cmp::Reverse(*late), entry.head));
        due.into_iter()
            .take(max)
            .map(|(_, entry)| {
                entry.tried_at = clock;
                entry.card.clone()
            })
            .collect()
    }

    /// How large the overlay is, by the own neighbourhood and by the places of [`Table::observed`].
    pub fn estimate(&self) -> Estimate {
        Estimate { nodes: self.nodes }
    }

    /// A walk to a *random* place, which only this node knew before, ended with these peers of the region of
    /// `radius_fraction` having answered: one more voice for the estimate. At most two of a /24 count.
    pub fn observed(&mut self, region: &[Arc<Card>], radius_fraction: f64) {
        let mut counts = super::Diversity::default();
        let caps = Caps { subnet: 2, wide: u32::MAX, system: u32::MAX };
        let count = region.iter().filter(|card| counts.admit(&card.network, &caps)).count();
        if radius_fraction > 0.0 && radius_fraction < 0.5 && count >= 3 {
            self.places.add(count as f64 / radius_fraction);
            self.measure();
        }
    }

    /// Where a walk that keeps the table fresh should go: with even salts anywhere, for [`Table::observed`]; with odd
    /// ones into the bucket that lacks most peers.
    pub fn refresh_target(&self, salt: u64) -> Position {
        let mut target = Position(std::array::from_fn(|i| answer::shuffled(i as u64, salt).to_be_bytes()[0]));
        if salt % 2 == 1 {
            let missing = |index: usize| {
                let expected = (self.nodes / 2_f64.powi(index as i32 + 1)).min(K as f64);
                expected - self.buckets.get(index).map_or(0, |bucket| bucket.members.len()) as f64
            };
            let depth = (self.nodes.log2() as usize).min(40);
            let index = (0..=depth).max_by(|a, b| missing(*a).total_cmp(&missing(*b))).unwrap_or(0);
            // The bits before are ours, bit `index` is not.
            let keep = !(u64::MAX.checked_shr(index as u32).unwrap_or(0));
            let flip = 1 << (63 - index);
            let bits = (self.head & keep) | (!self.head & flip) | (head(&target) & !(keep | flip));
            target.0[..8].copy_from_slice(&bits.to_be_bytes());
        }
        target
    }

    /// Known servers nearer to `target` than this node, up to `most`: for "is this record mine".
    pub fn nearer_than_here(&self, target: &Position, most: usize) -> usize {
        let here: Distance = self.here.distance(target);
        let (at, limit) = (head(target), self.head ^ head(target));
        let nearer = |entry: &&Entry| match (entry.head ^ at).cmp(&limit) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => entry.card.position.distance(target) < here,
            std::cmp::Ordering::Greater => false,
        };
        self.entries().filter(nearer).take(most).count()
    }

    pub fn get(&self, node: &NodeKey) -> Option<&Arc<Card>> {
        let position = Position::of_node(node);
        let bucket = self.buckets.get(self.index(&position))?;
        bucket.members.iter().find(|entry| entry.is(&position)).map(|entry| &entry.card)
    }

    /// As [`Table::get`], of those who wait too.
    pub fn card(&self, node: &NodeKey) -> Option<&Arc<Card>> {
        let position = Position::of_node(node);
        let bucket = self.buckets.get(self.index(&position))?;
        bucket.members.iter().chain(&bucket.waiting).find(|entry| entry.is(&position)).map(|entry| &entry.card)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All, with when each was first seen: for the peer cache and the status.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Card>, UnixMillis)> {
        self.entries().map(|entry| (&entry.card, entry.first_seen))
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|bucket| &bucket.members)
    }

    fn index(&self, position: &Position) -> usize {
        (head(position) ^ self.head).leading_zeros().min(DEEPEST) as usize
    }
}
