//! The engine without a disk: sorted maps behind a lock. For the demo and for tests.

use super::Table;
use super::engine::{Engine, EngineResult, Rows};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
pub(super) struct MemoryEngine {
    tables: [Mutex<Map>; Table::ALL.len()],
}

impl MemoryEngine {
    fn table(&self, table: Table) -> MutexGuard<'_, Map> {
        self.tables[table.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, table: Table, key: &[u8]) -> EngineResult<Option<Vec<u8>>> {
        Ok(self.table(table).get(key).cloned())
    }

    fn insert(&self, table: Table, key: &[u8], value: &[u8]) -> EngineResult<bool> {
        Ok(self.table(table).insert(key.to_vec(), value.to_vec()).is_none())
    }

    fn remove(&self, table: Table, key: &[u8]) -> EngineResult<bool> {
        Ok(self.table(table).remove(key).is_some())
    }

    fn scan(&self, table: Table, limit: usize, descending: bool) -> EngineResult<Rows> {
        let map = self.table(table);
        let row = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(if descending {
            map.iter().rev().take(limit).map(row).collect()
        } else {
            map.iter().take(limit).map(row).collect()
        })
    }

    fn rows(&self, table: Table) -> EngineResult<usize> {
        Ok(self.table(table).len())
    }

    fn flush(&self) -> EngineResult<()> {
        Ok(())
    }
}
