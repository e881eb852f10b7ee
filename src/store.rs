//! What the node keeps across restarts (except keys, which have their own files).
//!
//! The face of the store: bounded tables of bytes, written behind, made durable by [`Store::commit`]. It knows nothing
//! of what the bytes mean. The engine is behind the small trait in `store/engine.rs`; only `store/sled.rs` names the
//! database, and `store/memory.rs` is the second engine, for the demo and for tests.

mod commit;
mod engine;
mod memory;
mod sled;
#[cfg(test)]
mod tests;

use crate::clock::UnixMillis;
use commit::Committer;
use engine::{Engine, OpenFailure};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest key, bytes: the longest key in use (an account name) is far below.
const MAX_KEY_BYTES: usize = 512;

/// Longest value, bytes: five times the largest bundle, and above every account's registrations.
const MAX_VALUE_BYTES: usize = 64 * 1024;

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
    /// peer id → what it did, faded to a time.
    Ledger,
    /// What was relayed for others in the current month.
    Relay,
}

/// Key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What happens when a row more than the bound is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenFull {
    /// The put fails: losing an older row would be wrong.
    Refuse,
    /// The row with the lowest key goes: keys of this table are ordered by time.
    DropFirst,
}

impl Table {
    pub(crate) const ALL: [Table; 8] = [
        Table::Sequences,
        Table::Registrations,
        Table::Records,
        Table::Pins,
        Table::Peers,
        Table::History,
        Table::Ledger,
        Table::Relay,
    ];

    fn index(self) -> usize {
        match self {
            Table::Sequences => 0,
            Table::Registrations => 1,
            Table::Records => 2,
            Table::Pins => 3,
            Table::Peers => 4,
            Table::History => 5,
            Table::Ledger => 6,
            Table::Relay => 7,
        }
    }

    /// Rows at most, and what happens then. The users of a table keep it far smaller by their own rules; this is the
    /// last wall in front of the disk. 200,000 registrations of a large gateway must fit; bundles are bounded in bytes by
    /// who keeps them.
    fn bound(self) -> (usize, WhenFull) {
        match self {
            Table::Sequences | Table::Registrations => (200_000, WhenFull::Refuse),
            Table::Records => (50_000, WhenFull::Refuse),
            Table::Pins => (100_000, WhenFull::Refuse),
            Table::Peers => (2_000, WhenFull::Refuse),
            Table::Ledger => (10_000, WhenFull::Refuse),
            Table::Relay => (16, WhenFull::Refuse),
            Table::History => (50_000, WhenFull::DropFirst),
        }
    }
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store at {path} cannot be opened: {why}")]
    Open { path: PathBuf, why: String },
    #[error("the store failed: {0}")]
    Failed(String),
    #[error("the store's table {table:?} is full ({rows} rows)")]
    Full { table: Table, rows: usize },
}

/// Cloneable handle; all clones are one store. Reads and puts take microseconds and may be called from async code.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    /// Rows of each table. Held while a row is added or removed, so that a bound is exact.
    rows: [Mutex<usize>; Table::ALL.len()],
    committer: Arc<Committer>,
}

/// A store and, when a damaged one was found, where it was set aside.
pub struct Opened {
    pub store: Store,
    pub set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens or creates the store; a damaged one is renamed to `<name>.damaged-<unix seconds>` and a fresh one started.
    /// Blocking: reads everything once, to know that it can be read.
    ///
    /// # Errors
    /// [`StoreError::Open`] when another process has it, the directory cannot be written, or a newer version made it.
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        let failed = |why: String| StoreError::Open { path: path.to_owned(), why };
        match sled::open(path) {
            Ok(engine) => Ok(Opened { store: Self::over(Arc::new(engine)).map_err(failed)?, set_aside: None }),
            Err(OpenFailure::Refused(why)) => Err(failed(why)),
            Err(OpenFailure::Damaged(why)) => {
                let aside = set_aside(path).map_err(|e| failed(format!("{why}; and it cannot be set aside: {e}")))?;
                tracing::warn!(%why, "the store was damaged and has been set aside; a fresh one is started");
                let engine = sled::open(path).map_err(|failure| match failure {
                    OpenFailure::Refused(why) | OpenFailure::Damaged(why) => failed(why),
                })?;
                Ok(Opened { store: Self::over(Arc::new(engine)).map_err(failed)?, set_aside: Some(aside) })
            }
        }
    }

    /// In memory, gone with the last handle: for the demo and tests.
    ///
    /// # Errors
    /// None today.
    pub fn temporary() -> Result<Store, StoreError> {
        Self::over(Arc::new(memory::MemoryEngine::default())).map_err(StoreError::Failed)
    }

    fn over(engine: Arc<dyn Engine>) -> Result<Store, String> {
        let mut rows: [Mutex<usize>; Table::ALL.len()] = Default::default();
        for table in Table::ALL {
            rows[table.index()] = Mutex::new(engine.rows(table)?);
        }
        let committer = Arc::new(Committer::new(engine.clone()));
        Ok(Store { shared: Arc::new(Shared { engine, rows, committer }) })
    }

    /// # Errors
    /// [`StoreError::Failed`] when the engine cannot read it.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.engine.get(table, key).map_err(StoreError::Failed)
    }

    /// Written behind; durable after [`commit`](Self::commit), and within a second without one.
    ///
    /// # Errors
    /// [`StoreError::Full`] for a new row in a full table (the history drops its oldest row instead);
    /// [`StoreError::Failed`] for a key over 512 bytes, a value over 64 KiB, or when the engine fails.
    pub fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(StoreError::Failed(format!("a row of {table:?} is too large")));
        }
        let engine = &self.shared.engine;
        let mut rows = self.rows(table);
        let (bound, when_full) = table.bound();
        if *rows >= bound && engine.get(table, key).map_err(StoreError::Failed)?.is_none() {
            match when_full {
                WhenFull::Refuse => return Err(StoreError::Full { table, rows: *rows }),
                WhenFull::DropFirst => {
                    for (first, _) in engine.scan(table, 1, false).map_err(StoreError::Failed)? {
                        if engine.remove(table, &first).map_err(StoreError::Failed)? {
                            *rows = rows.saturating_sub(1);
                        }
                    }
                }
            }
        }
        if engine.insert(table, key, value).map_err(StoreError::Failed)? {
            *rows += 1;
        }
        Ok(())
    }

    /// Removes a row, if it is there. Durable like a [`put`](Self::put).
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the engine fails.
    pub fn remove(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let mut rows = self.rows(table);
        if self.shared.engine.remove(table, key).map_err(StoreError::Failed)? {
            *rows = rows.saturating_sub(1);
        }
        Ok(())
    }

    /// Up to `limit` rows in key order.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the engine cannot read them.
    pub fn scan(&self, table: Table, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.shared.engine.scan(table, limit, false).map_err(StoreError::Failed)
    }

    /// Up to `limit` rows from the highest key down: the newest of a time-ordered table.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the engine cannot read them.
    pub fn scan_last(&self, table: Table, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.shared.engine.scan(table, limit, true).map_err(StoreError::Failed)
    }

    /// Rows in a table.
    pub fn len(&self, table: Table) -> usize {
        *self.rows(table)
    }

    /// Whether a table has no row.
    pub fn is_empty(&self, table: Table) -> bool {
        self.len(table) == 0
    }

    /// Returns once everything put before the call survives `kill -9` (and, as far as the disk is honest, a power
    /// cut). Calls that overlap share one flush. Cancel safe: dropping the future drops the answer, not the flush.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the disk cannot be written.
    pub async fn commit(&self) -> Result<(), StoreError> {
        self.shared.committer.commit().await.map_err(StoreError::Failed)
    }

    fn rows(&self, table: Table) -> MutexGuard<'_, usize> {
        self.shared.rows[table.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Damaged stores that are kept beside the good one; the oldest goes.
const MAX_SET_ASIDE: usize = 3;

/// Renames the damaged directory beside itself, under a name that is free.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let name = path.file_name().map_or_else(|| "store".into(), |n| n.to_string_lossy().into_owned());
    let seconds = UnixMillis::now().seconds();
    let aside = (0..100)
        .map(|n| match n {
            0 => path.with_file_name(format!("{name}.damaged-{seconds}")),
            n => path.with_file_name(format!("{name}.damaged-{seconds}-{n}")),
        })
        .find(|candidate| !candidate.exists())
        .ok_or_else(|| std::io::Error::other("no free name"))?;
    std::fs::rename(path, &aside)?;
    if let Err(error) = drop_oldest(path, &format!("{name}.damaged-")) {
        tracing::warn!(%error, "older damaged stores stay on disk");
    }
    Ok(aside)
}

/// Removes what was set aside longest ago, by the time in its name.
fn drop_oldest(path: &Path, prefix: &str) -> std::io::Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    let mut aside = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) && entry.file_type()?.is_dir() {
            aside.push(entry.path());
        }
    }
    aside.sort();
    let surplus = aside.len().saturating_sub(MAX_SET_ASIDE);
    aside.iter().take(surplus).try_for_each(std::fs::remove_dir_all)
}
