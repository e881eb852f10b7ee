//! How many calls may ring at once for one person: a stranger's, and all strangers' together. Pure but for its lock.

use crate::uri::IdHash;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Calls of one remote user that ring here at once. More than one: somebody redials before the last ended.
const RINGING_PER_CALLER: usize = 2;

/// Calls from outside that ring one user here at once: more than any person can choose among.
const RINGING_PER_CALLEE: usize = 8;

#[derive(Default)]
struct Counts {
    callers: HashMap<IdHash, usize>,
    callees: HashMap<IdHash, usize>,
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
    callee: IdHash,
}

impl Floods {
    /// `None`: enough rings already.
    pub(super) fn admit(&self, caller: IdHash, callee: IdHash) -> Option<Ringing> {
        let mut counts = self.lock();
        let held = |map: &HashMap<IdHash, usize>, id: &IdHash| map.get(id).copied().unwrap_or(0);
        if held(&counts.callers, &caller) >= RINGING_PER_CALLER || held(&counts.callees, &callee) >= RINGING_PER_CALLEE
        {
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

fn release(map: &mut HashMap<IdHash, usize>, id: &IdHash) {
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
        let mut ringing: Vec<Ringing> = (0..2).filter_map(|_| floods.admit(IdHash([1; 22]), callee)).collect();
        assert!(floods.admit(IdHash([1; 22]), callee).is_none());
        ringing.extend((2..8).filter_map(|n| floods.admit(IdHash([n; 22]), callee)));
        assert_eq!(ringing.len(), 8);
        assert!(floods.admit(IdHash([8; 22]), callee).is_none());
        ringing.clear();
        assert!(floods.admit(IdHash([1; 22]), callee).is_some());
        let counts = floods.lock();
        assert!(counts.callers.is_empty() && counts.callees.is_empty());
    }
}
