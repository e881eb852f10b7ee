//! Whose records fill the store: every record counts on the network that brought it, and the network with most gives
//! way first. Keys and peer ids are free, networks are not.

use super::Publisher;
use crate::clock::UnixMillis;
use crate::record::RecordKey;
use std::collections::{BTreeSet, HashMap};

/// What a record costs beside its bytes: index, shares, expiry. Many small records are a weight too.
pub(super) const OVERHEAD: usize = 256;

/// Who is counted together: a /24 or /48; a single peer where addresses say nothing of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Share(pub u64);

impl Share {
    /// This node's own users: never evicted.
    pub const OWN: Share = Share(0);
    /// From rows of before shares were written down.
    pub const UNKNOWN: Share = Share(1);

    pub fn of(publisher: &Publisher) -> Self {
        match publisher.network {
            // Its first byte is 4 or 6.
            Some(network) => Self(network.subnet),
            None => {
                let head = publisher.node.0.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
                Self(head | 0xff << 56)
            }
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    weight: usize,
    /// Oldest first.
    members: BTreeSet<(UnixMillis, RecordKey)>,
}

/// The shares, heaviest first.
#[derive(Debug, Default)]
pub(super) struct Shares {
    groups: HashMap<Share, Group>,
    by_weight: BTreeSet<(usize, Share)>,
}

impl Shares {
    pub fn weight(&self, share: Share) -> usize {
        self.groups.get(&share).map_or(0, |group| group.weight)
    }

    pub fn add(&mut self, share: Share, key: RecordKey, arrived: UnixMillis, bytes: usize) {
        let group = self.groups.entry(share).or_default();
        self.by_weight.remove(&(group.weight, share));
        if group.members.insert((arrived, key)) {
            group.weight += bytes + OVERHEAD;
        }
        self.by_weight.insert((group.weight, share));
    }

    pub fn remove(&mut self, share: Share, key: RecordKey, arrived: UnixMillis, bytes: usize) {
        let Some(group) = self.groups.get_mut(&share) else { return };
        self.by_weight.remove(&(group.weight, share));
        if group.members.remove(&(arrived, key)) {
            group.weight = group.weight.saturating_sub(bytes + OVERHEAD);
        }
        if group.members.is_empty() {
            self.groups.remove(&share);
        } else {
            self.by_weight.insert((group.weight, share));
        }
    }

    /// Shares from the heaviest down to what is heavier than `above`, but not this node's own.
    pub fn heavier_than(&self, above: usize) -> impl Iterator<Item = (Share, usize)> + '_ {
        let heaviest = self.by_weight.iter().rev().filter(|(_, share)| *share != Share::OWN);
        heaviest.take_while(move |(weight, _)| *weight > above).map(|(weight, share)| (*share, *weight))
    }

    /// Members of a share, newest first.
    pub fn newest(&self, share: Share) -> impl Iterator<Item = (UnixMillis, RecordKey)> + '_ {
        self.groups.get(&share).into_iter().flat_map(|group| group.members.iter().rev().copied())
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }
}
