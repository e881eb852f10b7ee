//! A map with a bound: when it is full, what was touched longest ago goes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

pub(super) struct Table<K, V> {
    most: usize,
    clock: u64,
    entries: HashMap<K, (u64, V)>,
    by_age: BTreeMap<u64, K>,
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    pub fn new(most: usize) -> Self {
        Self { most, clock: 0, entries: HashMap::new(), by_age: BTreeMap::new() }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub fn remove(&mut self, key: &K) {
        if let Some((age, _)) = self.entries.remove(key) {
            self.by_age.remove(&age);
        }
    }

    /// Puts `value`, making it the youngest.
    pub fn put(&mut self, key: K, value: V) {
        self.clock += 1;
        if let Some((age, _)) = self.entries.insert(key.clone(), (self.clock, value)) {
            self.by_age.remove(&age);
        }
        self.by_age.insert(self.clock, key);
        if self.entries.len() > self.most
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
