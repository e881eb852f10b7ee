//! What the store asks of a database. `store/tests.rs` holds the conformance test that another engine must pass.

use super::{Row, Table};

pub(super) type Rows = Vec<Row>;

/// Errors are words: nothing above can act on an engine's kinds.
pub(super) type EngineResult<T> = Result<T, String>;

/// Tables of bytes, ordered by key. Thread safe; each call is atomic by itself.
pub(super) trait Engine: Send + Sync + 'static {
    fn get(&self, table: Table, key: &[u8]) -> EngineResult<Option<Vec<u8>>>;
    /// Whether the row is new.
    fn insert(&self, table: Table, key: &[u8], value: &[u8]) -> EngineResult<bool>;
    /// Whether there was such a row.
    fn remove(&self, table: Table, key: &[u8]) -> EngineResult<bool>;
    /// Up to `limit` rows in key order, or from the highest key down.
    fn scan(&self, table: Table, limit: usize, descending: bool) -> EngineResult<Rows>;
    /// Counts (may read everything; asked once, at start).
    fn rows(&self, table: Table) -> EngineResult<usize>;
    /// Blocks until everything written before the call is durable.
    fn flush(&self) -> EngineResult<()>;
}

/// Why an engine did not open.
pub(super) enum OpenFailure {
    /// Not the data's fault: locked, not writable, made by a newer version. Touch nothing.
    Refused(String),
    /// The data cannot be trusted: set it aside.
    Damaged(String),
}
