//! How many calls may ring at once for one person: a stranger's, and all strangers' together. Pure but for its lock.
//! Numbers cost nothing to make, so strangers are counted apart: they cannot keep a person busy for people they know.

use crate::uri::IdHash;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Calls of one remote user that ring here at once. More than one: somebody redials before the last ended.
const RINGING_PER_CALLER: usize = 2;

/// Calls from outside that ring one user here at once: more than any person can choose among. As many again of people
/// whom this node's owner knows.
const RINGING_PER_CALLEE: usize = 8;

#[derive(Default)]
struct Counts {
    callers: HashMap<IdHash, usize>,
    /// By who is called, and whether the callers are known.
    callees: HashMap<(IdHash, bool), usize>,
}

/// Counts what rings. Cloneable; all clones are one. Bounded by the calls of the node.
#[derive(Clone, Default)]
pub(super) struct Floods {
    counts: Arc<Mutex<Counts>>,
}

/// A call that rings; dropped when it no longer does.
pub(super) struct Ringing {
    floods: Floods,
    caller: IdHash,
    callee: (IdHash, bool),
}

impl Floods {
    /// `None`: enough rings already. `known`: the caller is among the contacts here.
    pub(super) fn admit(&self, caller: IdHash, callee: IdHash, known: bool) -> Option<Ringing> {
        let mut counts = self.lock();
        let callee = (callee, known);
        let of_caller = counts.callers.get(&caller).copied().unwrap_or(0);
        let of_callee = counts.callees.get(&callee).copied().unwrap_or(0);
        if of_caller >= RINGING_PER_CALLER || of_callee >= RINGING_PER_CALLEE {
            return None;
        }
        *counts.callers.entry(caller).or_default() += 1;
        *counts.callees.entry(callee).or_default() += 1;
        Some(Ringing { floods: self.clone(), caller, callee })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ringing {
    fn drop(&mut self) {
        let mut counts = self.floods.lock();
        release(&mut counts.callers, &self.caller);
        release(&mut counts.callees, &self.callee);
    }
}

fn release<K: Hash + Eq>(map: &mut HashMap<K, usize>, id: &K) {
    if let Some(count) = map.get_mut(id) {
        *count -= 1;
        if *count == 0 {
            map.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_what_one_caller_and_all_callers_ring() {
        let (floods, callee) = (Floods::default(), IdHash([9; 22]));
        let mut ringing: Vec<Ringing> = (0..2).filter_map(|_| floods.admit(IdHash([1; 22]), callee, false)).collect();
        assert!(floods.admit(IdHash([1; 22]), callee, false).is_none());
        ringing.extend((2..8).filter_map(|n| floods.admit(IdHash([n; 22]), callee, false)));
        assert_eq!(ringing.len(), 8);
        assert!(floods.admit(IdHash([8; 22]), callee, false).is_none());
        assert!(floods.admit(IdHash([8; 22]), callee, true).is_some(), "strangers do not keep a friend away");
        ringing.clear();
        assert!(floods.admit(IdHash([1; 22]), callee, false).is_some());
        let counts = floods.lock();
        assert!(counts.callers.is_empty() && counts.callees.is_empty());
    }
}
