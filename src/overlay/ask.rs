//! What publications and lookups ask of the DHT: the seam behind which another engine may stand.

use libp2p::PeerId;

/// A step of an operation. `index` is that of the replica key, 0 to 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Find the nearest servers.
    Closest(usize),
    /// Send the record to these.
    Put { index: usize, peers: Vec<PeerId> },
    /// Read the record from the nearest servers.
    Get(usize),
    /// End the readings of this operation early.
    StopReading,
}

/// What a running query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Closest(usize),
    Put(usize),
    Get(usize),
}
