//! The engine on disk: the only file that names the database.
//!
//! Two things it adds to sled. `flush()` of sled 0.34 on Linux is `sync_file_range`, which neither waits for the
//! disk's cache nor writes metadata, so a flush here ends with `fdatasync` of the log. And recovery of sled quietly
//! drops a damaged tail, in the worst case everything; a marker row, written and flushed when the store is made,
//! tells an empty store from an emptied one.

use super::Table;
use super::engine::{Engine, EngineResult, OpenFailure, Rows};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Page cache, bytes. The default of 1 GiB is no use to a node whose tables are a few megabytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Writes that nobody committed reach the log after this time, milliseconds.
const FLUSH_EVERY_MS: u64 = 1_000;

const IN_USE: &str = "another process is using it";

/// Row of the default tree that says who made this store.
const MARKER: &[u8] = b"peerline-store";
const MARKER_VERSION: &[u8] = b"1";

pub(super) struct SledEngine {
    database: sled::Db,
    trees: Vec<sled::Tree>,
    /// The log file, opened again for `fdatasync`.
    log: File,
}

/// sled's worker threads hold the lock for a moment after the last handle is dropped: so long is it asked for again.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Opens or creates a store at `path`, and reads all of it once. Waits up to [`LOCK_PATIENCE`] for its lock.
pub(super) fn open(path: &Path) -> Result<SledEngine, OpenFailure> {
    let existed = path.join("db").exists();
    let started = Instant::now();
    loop {
        // sled asserts in its recovery: what panics on the data is damage too.
        match catch_unwind(AssertUnwindSafe(|| open_unguarded(path, existed))) {
            Err(_) => return Err(OpenFailure::Damaged("reading it failed an assertion".into())),
            Ok(Err(OpenFailure::Refused(why))) if why == IN_USE && started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(opened) => return opened,
        }
    }
}

fn open_unguarded(path: &Path, existed: bool) -> Result<SledEngine, OpenFailure> {
    make_private(path).map_err(|e| OpenFailure::Refused(e.to_string()))?;
    let database = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS))
        .open()
        .map_err(judge)?;
    match database.get(MARKER).map_err(judge)? {
        Some(version) if version == MARKER_VERSION => {}
        Some(_) => return Err(OpenFailure::Refused("a newer version made it: update needed".into())),
        // Killed before its first flush, or emptied: nothing of ours is in it, and nothing is lost by a fresh start.
        None if existed => {
            return Err(OpenFailure::Damaged("its beginning is missing".into()));
        }
        None => {
            database.insert(MARKER, MARKER_VERSION).map_err(judge)?;
        }
    }
    let mut trees = Vec::with_capacity(Table::ALL.len());
    for table in Table::ALL {
        let tree = database.open_tree(name(table)).map_err(judge)?;
        for row in tree.iter() {
            row.map_err(judge)?;
        }
        trees.push(tree);
    }
    database.flush().map_err(judge)?;
    let log = File::open(path.join("db")).map_err(|e| OpenFailure::Refused(e.to_string()))?;
    Ok(SledEngine { database, trees, log })
}

/// The folder, for its owner alone: who asked for whom is in it.
fn make_private(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn name(table: Table) -> &'static str {
    match table {
        Table::Sequences => "sequences",
        Table::Registrations => "registrations",
        Table::Records => "records",
        Table::Pins => "pins",
        Table::Peers => "peers",
        Table::History => "history",
        Table::Ledger => "ledger",
        Table::Relay => "relay",
    }
}

/// Whether an error at opening speaks of the data or of the place.
fn judge(error: sled::Error) -> OpenFailure {
    use std::io::ErrorKind;
    match error {
        sled::Error::Io(e) if e.to_string().contains("acquire lock") => OpenFailure::Refused(IN_USE.into()),
        sled::Error::Io(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
            OpenFailure::Damaged(e.to_string())
        }
        sled::Error::Io(e) => OpenFailure::Refused(e.to_string()),
        other => OpenFailure::Damaged(other.to_string()),
    }
}

impl SledEngine {
    fn tree(&self, table: Table) -> &sled::Tree {
        &self.trees[table.index()]
    }
}

fn words(error: sled::Error) -> String {
    error.to_string()
}

impl Engine for SledEngine {
    fn get(&self, table: Table, key: &[u8]) -> EngineResult<Option<Vec<u8>>> {
        Ok(self.tree(table).get(key).map_err(words)?.map(|value| value.to_vec()))
    }

    fn insert(&self, table: Table, key: &[u8], value: &[u8]) -> EngineResult<bool> {
        Ok(self.tree(table).insert(key, value).map_err(words)?.is_none())
    }

    fn remove(&self, table: Table, key: &[u8]) -> EngineResult<bool> {
        Ok(self.tree(table).remove(key).map_err(words)?.is_some())
    }

    fn scan(&self, table: Table, limit: usize, descending: bool) -> EngineResult<Rows> {
        let row = |row: sled::Result<(sled::IVec, sled::IVec)>| {
            row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(words)
        };
        if descending {
            self.tree(table).iter().rev().take(limit).map(row).collect()
        } else {
            self.tree(table).iter().take(limit).map(row).collect()
        }
    }

    fn rows(&self, table: Table) -> EngineResult<usize> {
        Ok(self.tree(table).len())
    }

    fn flush(&self) -> EngineResult<()> {
        self.database.flush().map_err(words)?;
        self.log.sync_data().map_err(|e| e.to_string())
    }
}
