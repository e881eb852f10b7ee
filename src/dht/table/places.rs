//! Who gets a place: room, caps as a preference, and who gives way.

use super::bucket::{Bucket, Entry, K, Standing, insert};
use super::*;

impl Entry {
    pub(super) fn touch(
        &mut self,
        card: &Arc<Card>,
        network: Network,
        since: Option<UnixMillis>,
        clock: u32,
        inbound: bool,
    ) {
        self.inbound &= inbound;
        if card.issued_at > self.card.issued_at {
            self.card = card.clone();
        }
        if self.network.wide == network.wide {
            self.network = network;
        }
        // An answer makes nobody older than it was, whatever the clock says.
        self.first_seen = since.map_or(self.first_seen, |since| self.first_seen.min(since));
        self.verified_at = clock;
        self.failures = 0;
    }
}

impl Table {
    /// Finds a place for a peer that is not in.
    pub(super) fn place(&mut self, index: usize, mut entry: Entry) -> Admission {
        entry.standing = self.standing(index, &entry);
        let near = entry.head ^ self.head <= self.near;
        let diverse = entry.standing == Standing::Diverse;
        let full_house = self.len >= ROOM;
        let room = if near {
            self.neighbours() < MAX_NEIGHBOURS
        } else {
            !full_house || self.buckets[index].members.len() < K
        };
        // Over the caps there is a place only while the table is small, or somebody else over the caps can spare one.
        let give_up = if full_house { self.spare(diverse) } else { None };
        if room && (diverse || !full_house || give_up.is_some()) {
            self.enter(index, entry);
            if let Some((from, at)) = give_up {
                self.step_back(from, at);
            }
            return Admission::In;
        }
        let surplus = self.buckets[index].newest_surplus();
        if let Some(at) = surplus.filter(|_| diverse) {
            self.step_back(index, at);
            self.enter(index, entry);
            return Admission::In;
        }
        let counts = self.counts(&entry);
        let bucket = &mut self.buckets[index];
        bucket.overflown |= counts && !near;
        if bucket.keep_waiting(entry) { Admission::Waits } else { Admission::No }
    }

    fn enter(&mut self, index: usize, entry: Entry) {
        let distance = entry.head ^ self.head;
        insert(&mut self.buckets[index].members, entry);
        self.len += 1;
        self.changed(distance);
    }

    /// Whom the fullest far bucket can spare: its newest over 20, one over the caps first; with `anybody` unset only such.
    fn spare(&self, anybody: bool) -> Option<(usize, usize)> {
        let far = |bucket: &&(usize, &Bucket)| bucket.1.members.len() > K && !self.is_neighbourly(bucket.0);
        let (index, bucket) =
            self.buckets.iter().enumerate().filter(|b| far(&b)).max_by_key(|(_, bucket)| bucket.members.len())?;
        let last = anybody.then_some(bucket.members.len() - 1);
        bucket.newest_surplus().or(last).map(|at| (index, at))
    }

    /// The bucket reaches into the neighbourhood.
    fn is_neighbourly(&self, index: usize) -> bool {
        // Its nearest member could be at this distance.
        1_u64 << (63 - index.min(63)) <= self.near
    }

    /// A member goes back to those who wait.
    fn step_back(&mut self, index: usize, at: usize) {
        let counts = self.counts(&self.buckets[index].members[at]);
        let bucket = &mut self.buckets[index];
        let entry = bucket.members.remove(at);
        bucket.overflown |= counts;
        bucket.keep_waiting(entry);
        self.len -= 1;
    }

    /// Turning it away makes the bucket incomplete.
    fn counts(&self, entry: &Entry) -> bool {
        entry.standing != Standing::Crowd || estimate::crowds_count(&self.buckets)
    }

    /// A member leaves for good; who waits best takes the place.
    pub(super) fn take_out(&mut self, index: usize, position: &Position) {
        let bucket = &mut self.buckets[index];
        let Some(at) = bucket.members.iter().position(|entry| entry.is(position)) else { return };
        let distance = bucket.members.remove(at).head ^ self.head;
        self.len -= 1;
        if let Some(candidate) = bucket.take_candidate() {
            self.place(index, candidate);
        }
        let bucket = &mut self.buckets[index];
        bucket.overflown &= bucket.members.len() >= K || !bucket.waiting.is_empty();
        self.changed(distance);
    }

    /// Members of the neighbourhood.
    fn neighbours(&self) -> usize {
        let deep = self.near.leading_zeros() as usize;
        let near = |entry: &&Entry| entry.head ^ self.head <= self.near;
        self.buckets.iter().skip(deep).flat_map(|bucket| &bucket.members).filter(near).count()
    }

    /// How a peer of this network stands among those who have their own place.
    pub(super) fn standing(&self, index: usize, entry: &Entry) -> Standing {
        let network = &entry.network;
        let (mut subnet, mut system, mut all_subnet, mut all_wide) = (0, 0, 0, 0);
        for other in self.entries() {
            let own = usize::from(other.standing == Standing::Diverse);
            let same_subnet = usize::from(other.network.subnet == network.subnet);
            subnet += own & same_subnet;
            system += own & usize::from(other.network.system == network.system);
            all_subnet += same_subnet;
            all_wide += usize::from(other.network.wide == network.wide);
        }
        if entry.inbound || all_subnet >= TABLE_SUBNET || all_wide >= CROWD_FLOOR.max(self.len / CROWD_SHARE) {
            return Standing::Crowd;
        }
        let within = subnet < TABLE_SUBNET
            && system < TABLE_SYSTEM_FLOOR.max(self.len / TABLE_SYSTEM_SHARE)
            && fits(&self.buckets[index].members, network);
        if within { Standing::Diverse } else { Standing::Surplus }
    }

    /// Something changed at this distance: measures again when that can matter.
    fn changed(&mut self, distance: u64) {
        self.changes += 1;
        if self.changes >= LOOK_AFTER {
            self.changes = 0;
            self.look_through();
        } else if !self.changes.is_multiple_of(16) && self.len > 64 && distance / 2 > self.near {
            return;
        }
        self.measure();
    }

    /// All standings again, the oldest first: places that became free within the caps go to those who were over them.
    fn look_through(&mut self) {
        let mut order: Vec<(UnixMillis, usize, usize)> = Vec::with_capacity(self.len);
        for (index, bucket) in self.buckets.iter_mut().enumerate() {
            for (at, entry) in bucket.members.iter_mut().enumerate() {
                order.push((entry.first_seen, index, at));
            }
        }
        order.sort_unstable();
        let mut table = super::super::Diversity::default();
        let share = |least: usize, part: usize| u32::try_from(least.max(self.len / part)).unwrap_or(u32::MAX);
        let own =
            Caps { subnet: TABLE_SUBNET as u32, wide: u32::MAX, system: share(TABLE_SYSTEM_FLOOR, TABLE_SYSTEM_SHARE) };
        let crowd = Caps { subnet: TABLE_SUBNET as u32, wide: share(CROWD_FLOOR, CROWD_SHARE), system: u32::MAX };
        let mut all = super::super::Diversity::default();
        let mut buckets = vec![super::super::Diversity::default(); self.buckets.len()];
        for (_, index, at) in order {
            let entry = &mut self.buckets[index].members[at];
            entry.standing = if entry.inbound || !all.admit(&entry.network, &crowd) {
                Standing::Crowd
            } else if buckets[index].admit(&entry.network, &Caps::CLOSE) && table.admit(&entry.network, &own) {
                Standing::Diverse
            } else {
                Standing::Surplus
            };
        }
    }

    pub(super) fn measure(&mut self) {
        self.nodes = self.places.with_own(estimate::own(&self.buckets, self.head));
        let near = Distance::of_fraction(NEIGHBOURHOOD * self.estimate().region());
        let near = near.0.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
        // Whole buckets, or the one in which the radius lies would be full of neighbours and know nobody beyond.
        self.near = u64::MAX.checked_shr(near.leading_zeros()).unwrap_or(0);
    }
}

/// One more of this network fits into the caps of a bucket.
fn fits(members: &[Entry], network: &Network) -> bool {
    let (mut subnet, mut wide, mut system) = (0, 0, 0);
    for other in members.iter().filter(|other| other.standing == Standing::Diverse) {
        subnet += u32::from(other.network.subnet == network.subnet);
        wide += u32::from(other.network.wide == network.wide);
        system += u32::from(other.network.system == network.system);
    }
    subnet < Caps::CLOSE.subnet && wide < Caps::CLOSE.wide && system < Caps::CLOSE.system
}
