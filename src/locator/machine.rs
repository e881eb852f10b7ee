//! When a hosted user is announced, and with which sequence number. Pure: time is passed in, effects come out; signing,
//! disk and overlay belong to the driver.
//!
//! ```text
//! bind, unbind, refresh, new addresses ──▶ Keep (number to disk) ──kept──▶ Announce (sign, serve, publish) ──told──▶ due
//! ```
//!
//! A number is used once: every announcement takes a new one, above all used before and all seen in the overlay.

use crate::clock::UnixMillis;
use crate::uri::IdHash;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Longest life that an entry may have (FORMATS): a tombstone lives that long, so it outlives whatever its slot said
/// before, also before a restart.
pub(super) const LONGEST_TTL: Duration = Duration::from_secs(10_800);

/// Shortest life that an entry may have (FORMATS).
const SHORTEST_TTL: Duration = Duration::from_secs(60);

/// First and longest wait before a failed publication is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// From the first new peer to the next try of a publication that found nobody: lets a few more join.
const AFTER_JOINING: Duration = Duration::from_millis(300);

/// What an announcement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Reachable,
    Tombstone,
}

/// An entry to sign now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub user: IdHash,
    pub sequence: u64,
    pub shown: Shown,
    /// False: only shown in hellos, for a user who calls out but is not reachable here.
    pub publish: bool,
    pub issued_at: UnixMillis,
    pub expires_at: UnixMillis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Make this number durable, then say [`Publisher::kept`].
    Keep { user: IdHash, sequence: u64 },
    /// Sign and serve; when it is to be published, say [`Publisher::told`] at the end.
    Announce(Announcement),
}

/// What became of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Published,
    /// As many copies as there were nodes, and fewer than are wanted.
    Thin,
    /// No other node was there.
    Alone,
    /// Too few copies.
    Failed,
    /// The entry could not be signed so that it is valid: nothing went out.
    Unsigned,
}

#[derive(Debug)]
struct Slot {
    bound: bool,
    /// Something REACHABLE may be in the overlay: leaving needs a published tombstone.
    out: bool,
    /// Highest number used, or being written.
    last: u64,
    /// Highest number that the overlay showed for this slot.
    seen: u64,
    keeping: Option<u64>,
    /// The announcement that is out: a result of an older one says nothing.
    current: u64,
    /// `current` says REACHABLE.
    announced: bool,
    alone: bool,
    /// Has too few copies for lack of nodes.
    thin: bool,
    failures: u32,
    due: Option<Instant>,
}

/// All hosted users of this node.
#[derive(Debug)]
pub(super) struct Publisher {
    ttl: Duration,
    refresh: Duration,
    slots: BTreeMap<IdHash, Slot>,
    timers: BTreeSet<(Instant, IdHash)>,
    effects: VecDeque<Effect>,
}

impl Publisher {
    pub(super) fn new(ttl: Duration, refresh: Duration) -> Self {
        Self {
            ttl: ttl.clamp(SHORTEST_TTL, LONGEST_TTL),
            refresh,
            slots: BTreeMap::new(),
            timers: BTreeSet::new(),
            effects: VecDeque::new(),
        }
    }

    /// A user to speak for, or a new certificate of one. `kept` is the last number on disk.
    pub(super) fn host(&mut self, user: IdHash, kept: u64, wall: UnixMillis) {
        self.slots.entry(user).or_insert(Slot {
            bound: false,
            out: false,
            last: kept,
            seen: 0,
            keeping: None,
            current: 0,
            announced: false,
            alone: false,
            thin: false,
            failures: 0,
            due: None,
        });
        self.announce(user, wall);
    }

    /// Reachable here. `Some(number)` when that was so already and nothing is being written: nothing to do.
    /// `None`: the answer comes with [`Effect::Announce`]. An unknown user must be refused before.
    pub(super) fn bind(&mut self, user: IdHash, wall: UnixMillis) -> Option<u64> {
        let slot = self.slots.get_mut(&user)?;
        if slot.bound && slot.announced && slot.keeping.is_none() {
            return Some(slot.current);
        }
        slot.bound = true;
        self.announce(user, wall);
        None
    }

    /// No longer reachable here: a tombstone goes out if anything was published.
    pub(super) fn unbind(&mut self, user: IdHash, wall: UnixMillis) {
        let Some(slot) = self.slots.get_mut(&user) else { return };
        if slot.bound {
            slot.bound = false;
            self.announce(user, wall);
        }
    }

    pub(super) fn unbind_all(&mut self, wall: UnixMillis) {
        let bound: Vec<IdHash> = self.slots.iter().filter(|(_, slot)| slot.bound).map(|(user, _)| *user).collect();
        for user in bound {
            self.unbind(user, wall);
        }
    }

    /// New addresses: everything bound is announced again.
    pub(super) fn addresses_changed(&mut self, wall: UnixMillis) {
        let bound: Vec<IdHash> = self.slots.iter().filter(|(_, slot)| slot.bound).map(|(user, _)| *user).collect();
        for user in bound {
            self.announce(user, wall);
        }
    }

    /// More nodes are connected than before: those who found nobody try again.
    pub(super) fn peers_joined(&mut self, now: Instant) {
        let alone: Vec<IdHash> = self.slots.iter().filter(|(_, slot)| slot.alone).map(|(user, _)| *user).collect();
        for user in alone {
            self.set_due(user, Some(now + AFTER_JOINING));
        }
    }

    /// More nodes are known than before: what had too few copies is published again, at all of them.
    pub(super) fn nodes_found(&mut self, now: Instant) {
        let thin: Vec<IdHash> = self.slots.iter().filter(|(_, slot)| slot.thin).map(|(user, _)| *user).collect();
        for user in thin {
            self.set_due(user, Some(now + AFTER_JOINING));
        }
    }

    /// The overlay holds this number for our slot. If we did not use it (lost store), we go above it.
    pub(super) fn seen(&mut self, user: IdHash, sequence: u64, wall: UnixMillis) {
        let Some(slot) = self.slots.get_mut(&user) else { return };
        slot.seen = slot.seen.max(sequence);
        if sequence > slot.last {
            slot.out = true;
            self.announce(user, wall);
        }
    }

    /// The number is on disk (or not).
    pub(super) fn kept(&mut self, user: IdHash, sequence: u64, ok: bool, now: Instant, wall: UnixMillis) {
        let Some(slot) = self.slots.get_mut(&user) else { return };
        if slot.keeping != Some(sequence) {
            return;
        }
        slot.keeping = None;
        if !ok {
            slot.announced = false;
            self.retry(user, now);
            return;
        }
        if sequence <= slot.seen {
            self.announce(user, wall);
            return;
        }
        slot.current = sequence;
        slot.announced = slot.bound;
        (slot.alone, slot.thin) = (false, false);
        let (shown, ttl) = if slot.bound { (Shown::Reachable, self.ttl) } else { (Shown::Tombstone, LONGEST_TTL) };
        let publish = slot.bound || slot.out;
        slot.out |= slot.bound;
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.effects.push_back(Effect::Announce(Announcement {
            user,
            sequence,
            shown,
            publish,
            issued_at: wall,
            expires_at: UnixMillis(wall.0.saturating_add(millis)),
        }));
        // Should no result ever come, the refresh is still due.
        let wait = self.wait(user, sequence);
        self.set_due(user, Some(now + wait));
    }

    /// The end of an announcement.
    pub(super) fn told(&mut self, user: IdHash, sequence: u64, told: Told, now: Instant) {
        let Some(slot) = self.slots.get_mut(&user) else { return };
        if slot.current != sequence || slot.keeping.is_some() {
            return;
        }
        match told {
            Told::Published | Told::Thin => {
                slot.failures = 0;
                slot.thin = told == Told::Thin && slot.bound;
                slot.out = slot.bound;
                let wait = self.wait(user, sequence);
                self.set_due(user, Some(now + wait));
            }
            Told::Alone => {
                slot.alone = true;
                self.retry(user, now);
            }
            Told::Failed => self.retry(user, now),
            Told::Unsigned => {
                slot.announced = false;
                self.retry(user, now);
            }
        }
    }

    /// Whether every tombstone that was owed has been published.
    pub(super) fn all_withdrawn(&self) -> bool {
        self.slots.values().all(|slot| !slot.bound && !slot.out && slot.keeping.is_none())
    }

    pub(super) fn is_bound(&self, user: &IdHash) -> bool {
        self.slots.get(user).is_some_and(|slot| slot.bound)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, wall: UnixMillis) {
        while let Some((due, user)) = self.timers.first().copied() {
            if due > now {
                break;
            }
            self.set_due(user, None);
            self.announce(user, wall);
        }
    }

    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes the next number. While one is being written nothing is to do: what is announced is decided after that.
    fn announce(&mut self, user: IdHash, wall: UnixMillis) {
        let Some(slot) = self.slots.get_mut(&user) else { return };
        if slot.keeping.is_some() {
            return;
        }
        let sequence = wall.0.max(slot.last.saturating_add(1)).max(slot.seen.saturating_add(1));
        slot.last = sequence;
        slot.keeping = Some(sequence);
        self.effects.push_back(Effect::Keep { user, sequence });
        self.set_due(user, None);
    }

    fn retry(&mut self, user: IdHash, now: Instant) {
        let Some(slot) = self.slots.get_mut(&user) else { return };
        let wait = FIRST_RETRY.saturating_mul(1 << slot.failures.min(10)).min(LONGEST_RETRY);
        slot.failures = slot.failures.saturating_add(1);
        self.set_due(user, Some(now + wait));
    }

    /// The refresh, a quarter more or less, so that users who came together part: decided by user and number.
    fn wait(&self, user: IdHash, sequence: u64) -> Duration {
        let mut mixed = user.0.iter().fold(sequence, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let per_mille = u32::try_from(750 + (mixed ^ (mixed >> 31)) % 501).unwrap_or(1000);
        self.refresh.saturating_mul(per_mille) / 1000
    }

    fn set_due(&mut self, user: IdHash, due: Option<Instant>) {
        let Some(slot) = self.slots.get_mut(&user) else { return };
        if let Some(old) = slot.due.take() {
            self.timers.remove(&(old, user));
        }
        slot.due = due;
        if let Some(due) = due {
            self.timers.insert((due, user));
        }
    }
}

#[cfg(test)]
mod tests;
