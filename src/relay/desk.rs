//! Who may have an allocation, and when it ends. Pure: the time is an argument, sockets are the driver's.
//!
//! What was granted is never cut: bytes are promised with the time. Renewals are served where newcomers are not, up to a
//! day; places of strangers never take up the half that waits for members.

use super::budget::{Budget, Share};
use super::pair::OVERHEAD;
use super::{CallId, Limits, MediaFor, Refusal};
use crate::admission::{PerSource, Rate, Subnet};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// No call lasts longer, and a node that renews for ever ends some day.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// Shortest grant: long enough to be renewed twice on a bad day.
pub(super) const SHORTEST: Duration = Duration::from_secs(60);

/// Requests of a node and of a network: a call needs one, and one each few minutes.
const PER_NODE: Rate = Rate { per_second: 0.5, burst: 20.0 };
const PER_NETWORK: Rate = Rate { per_second: 5.0, burst: 60.0 };
const MAX_SOURCES: usize = 4_096;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) node: NodeKey,
    /// `None`: where networks do not count, or nobody knows.
    pub(super) network: Option<Subnet>,
    pub(super) member: bool,
}

/// A node's call: what an allocation is known by.
pub(super) type Key = (NodeKey, CallId);

#[derive(Debug)]
struct Grant {
    network: Option<Subnet>,
    share: Share,
    since: Instant,
    until: Instant,
    /// Promised and not sent yet.
    left: u64,
}

/// The table of what is given away. Bounded by its limits.
#[derive(Debug)]
pub(super) struct Desk {
    media: MediaFor,
    limits: Limits,
    budget: Budget,
    grants: HashMap<Key, Grant>,
    per_node: PerSource<NodeKey>,
    per_network: PerSource<Subnet>,
}

/// What came of a request for an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    /// Ports are to be opened.
    New(Duration),
    /// It has it already: asked again, because the answer was lost.
    Again(Duration),
}

impl Desk {
    pub(super) fn new(media: MediaFor, limits: Limits, row: Option<&[u8]>, wall: UnixMillis) -> Self {
        Self {
            media,
            limits,
            budget: Budget::new(limits.bytes_per_month, row, wall),
            grants: HashMap::new(),
            per_node: PerSource::of_free_names(PER_NODE, MAX_SOURCES),
            per_network: PerSource::new(PER_NETWORK, MAX_SOURCES),
        }
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }

    /// Nodes and networks that have an allocation.
    pub(super) fn holders(&self) -> (usize, usize) {
        let nodes: std::collections::HashSet<_> = self.grants.keys().map(|(node, _)| node).collect();
        let networks: std::collections::HashSet<_> = self.grants.values().filter_map(|grant| grant.network).collect();
        (nodes.len(), networks.len())
    }

    /// Whether `asker` may ask for anything now.
    ///
    /// # Errors
    /// [`Refusal::TooOften`].
    pub(super) fn knock(&mut self, asker: &Asker, now: Instant) -> Result<(), Refusal> {
        let network = asker.network.is_none_or(|network| self.per_network.take(network, now));
        if network && self.per_node.take(asker.node, now) { Ok(()) } else { Err(Refusal::TooOften) }
    }

    /// Grants an allocation for `seconds`, or as long as is granted at once.
    ///
    /// # Errors
    /// Why not. Nothing is changed then.
    pub(super) fn allocate(
        &mut self,
        asker: &Asker,
        call: CallId,
        seconds: u32,
        now: Instant,
        wall: UnixMillis,
    ) -> Result<Granted, Refusal> {
        match self.media {
            MediaFor::Off => return Err(Refusal::Off),
            MediaFor::Members if !asker.member => return Err(Refusal::NotEntitled),
            MediaFor::Members | MediaFor::Anyone => {}
        }
        let key = (asker.node, call);
        if let Some(grant) = self.grants.get(&key) {
            return Ok(Granted::Again(grant.until.saturating_duration_since(now)));
        }
        let share = if asker.member { Share::Members } else { Share::Strangers };
        self.room(asker, share)?;
        let time = self.time(seconds);
        let bytes = self.bytes(time);
        if !self.budget.promise(share, bytes, true, wall) {
            return Err(Refusal::MonthSpent);
        }
        let grant = Grant { network: asker.network, share, since: now, until: now + time, left: bytes };
        self.grants.insert(key, grant);
        Ok(Granted::New(time))
    }

    fn room(&self, asker: &Asker, share: Share) -> Result<(), Refusal> {
        let count =
            |of: &dyn Fn(&Key, &Grant) -> bool| self.grants.iter().filter(|(key, grant)| of(key, grant)).count();
        if count(&|(node, _), _| *node == asker.node) >= self.limits.per_peer {
            return Err(Refusal::PeerFull);
        }
        if asker.network.is_some() && count(&|_, grant| grant.network == asker.network) >= self.limits.per_network {
            return Err(Refusal::NetworkFull);
        }
        let strangers = count(&|_, grant| grant.share == Share::Strangers);
        let theirs = share == Share::Strangers && strangers >= self.limits.allocations.div_ceil(2);
        if theirs || self.grants.len() >= self.limits.allocations { Err(Refusal::Full) } else { Ok(()) }
    }

    /// Lets an allocation go on for `seconds` from now, never shorter than it would have. Returns how long.
    ///
    /// # Errors
    /// [`Refusal::Unknown`]; [`Refusal::MonthSpent`] and [`Refusal::TooLong`], after which it goes on as granted.
    pub(super) fn renew(
        &mut self,
        key: &Key,
        seconds: u32,
        now: Instant,
        wall: UnixMillis,
    ) -> Result<Duration, Refusal> {
        let time = self.time(seconds);
        let (rate, burst) = (self.rate(), self.burst());
        let grant = self.grants.get_mut(key).ok_or(Refusal::Unknown)?;
        let last = grant.since + LONGEST;
        let until = (now + time).min(last).max(grant.until);
        if until == grant.until && now + time > last {
            return Err(Refusal::TooLong);
        }
        let needs = bytes_for(until.saturating_duration_since(now), rate).saturating_add(burst);
        let more = needs.saturating_sub(grant.left);
        if !self.budget.promise(grant.share, more, false, wall) {
            return Err(Refusal::MonthSpent);
        }
        grant.left += more;
        grant.until = until;
        Ok(until.saturating_duration_since(now))
    }

    /// Ends an allocation; false if there was none.
    pub(super) fn release(&mut self, key: &Key) -> bool {
        let Some(grant) = self.grants.remove(key) else { return false };
        self.budget.take_back(grant.share, grant.left);
        true
    }

    /// An allocation sent so many bytes more.
    pub(super) fn sent(&mut self, key: &Key, bytes: u64, wall: UnixMillis) {
        if let Some(grant) = self.grants.get_mut(key) {
            self.budget.spend(grant.share, bytes, grant.left, wall);
            grant.left = grant.left.saturating_sub(bytes);
        }
    }

    /// Allocations whose time is over.
    pub(super) fn over(&self, now: Instant) -> Vec<Key> {
        self.grants.iter().filter(|(_, grant)| grant.until <= now).map(|(key, _)| *key).collect()
    }

    fn time(&self, seconds: u32) -> Duration {
        Duration::from_secs(seconds.into()).clamp(SHORTEST, self.limits.granted.max(SHORTEST))
    }

    /// At most, of both directions: what the rate allows, and what may come at once.
    fn bytes(&self, time: Duration) -> u64 {
        bytes_for(time, self.rate()).saturating_add(self.burst())
    }

    fn rate(&self) -> u64 {
        u64::from(self.limits.bits_per_second) / 8
    }

    fn burst(&self) -> u64 {
        self.rate() * 2 + OVERHEAD as u64
    }
}

fn bytes_for(time: Duration, rate: u64) -> u64 {
    // Up to the next second.
    (time.as_secs() + 1).saturating_mul(rate)
}

#[cfg(test)]
mod tests;
