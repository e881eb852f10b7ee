//! What the node keeps across restarts (except keys, which have their own files). Only `store/sled.rs` names the
//! database. Skeleton: owned by the `overlay` work.

use std::path::{Path, PathBuf};

/// One keyspace per kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// idhash → last sequence used (u64 BE).
    Sequences,
    /// account name → registrations (bytes of `sip`).
    Registrations,
    /// record key → bundle held for the overlay.
    Records,
    /// idhash → highest (rotation, epoch) seen.
    Pins,
    /// peer id → last good address, last seen.
    Peers,
    /// time-ordered id → finished call.
    History,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store at {path} cannot be opened: {why}")]
    Open { path: PathBuf, why: String },
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Cloneable handle.
#[derive(Clone)]
pub struct Store {}

/// A store and, when a damaged one was found, where it was set aside.
pub struct Opened {
    pub store: Store,
    pub set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens or creates the store; a damaged one is renamed aside and a fresh one started.
    pub fn open(_path: &Path) -> Result<Opened, StoreError> {
        unimplemented!("skeleton")
    }
    /// In memory, gone with the last handle: for the demo and tests.
    pub fn temporary() -> Result<Store, StoreError> {
        unimplemented!("skeleton")
    }
    pub fn get(&self, _table: Table, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        unimplemented!("skeleton")
    }
    /// Written behind; durable after `commit`.
    pub fn put(&self, _table: Table, _key: &[u8], _value: &[u8]) -> Result<(), StoreError> {
        unimplemented!("skeleton")
    }
    pub fn remove(&self, _table: Table, _key: &[u8]) -> Result<(), StoreError> {
        unimplemented!("skeleton")
    }
    /// Up to `limit` rows in key order.
    pub fn scan(&self, _table: Table, _limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        unimplemented!("skeleton")
    }
    /// Returns once everything put before the call survives `kill -9`. Calls that overlap share one flush.
    pub async fn commit(&self) -> Result<(), StoreError> {
        unimplemented!("skeleton")
    }
}
