//! The highest (rotation, epoch) seen of each user: an older key or certificate generation is refused from then on.

use crate::record::Pin;
use crate::store::{Store, Table};
use crate::uri::IdHash;
use std::sync::{Arc, Mutex, PoisonError};

/// Half of `Table::Pins`.
const FOR_STRANGERS: usize = 50_000;

/// Cloneable; all clones are one set of pins. Kept in the store: a pin survives a restart.
#[derive(Clone)]
pub(super) struct Pins {
    store: Store,
    /// Held over read and write, so that a lower pin never overwrites a higher one.
    turn: Arc<Mutex<()>>,
}

impl Pins {
    pub(super) fn new(store: Store) -> Self {
        Self { store, turn: Arc::default() }
    }

    /// False when something newer was seen of this user before. A new highest pin of somebody looked up is kept.
    pub(super) fn admits(&self, who: &IdHash, pin: Pin) -> bool {
        self.judge(who, pin, true)
    }

    /// The same for somebody who came by themselves. Anybody can make users without end, so their pins take half of the
    /// table at most: the other half is for those whom this node's users call.
    pub(super) fn admits_stranger(&self, who: &IdHash, pin: Pin) -> bool {
        self.judge(who, pin, self.store.len(Table::Pins) < FOR_STRANGERS)
    }

    fn judge(&self, who: &IdHash, pin: Pin, is_kept: bool) -> bool {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match self.store.get(Table::Pins, &who.0) {
            Ok(row) => row.as_deref().and_then(decode),
            Err(error) => {
                tracing::warn!(%error, "the pins cannot be read");
                None
            }
        };
        if held.is_some_and(|held| pin < held) {
            return false;
        }
        // Nothing is below the lowest pin, so it need not be kept.
        let is_news = held.unwrap_or_default() < pin;
        if is_news
            && (is_kept || held.is_some())
            && let Err(error) = self.store.put(Table::Pins, &who.0, &encode(pin))
        {
            tracing::debug!(%error, "a pin was not kept");
        }
        true
    }
}

/// u32 rotation || u32 epoch, big-endian.
fn encode(pin: Pin) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&pin.rotation.to_be_bytes());
    bytes[4..].copy_from_slice(&pin.epoch.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Pin> {
    let (rotation, epoch) = bytes.split_first_chunk::<4>()?;
    let epoch = <[u8; 4]>::try_from(epoch).ok()?;
    Some(Pin { rotation: u32::from_be_bytes(*rotation), epoch: u32::from_be_bytes(epoch) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_lower_pin_also_after_a_restart() {
        let store = Store::temporary().unwrap();
        let who = IdHash([4; 22]);
        let pins = Pins::new(store.clone());
        assert!(pins.admits(&who, Pin { rotation: 0, epoch: 3 }));
        assert!(pins.admits(&who, Pin { rotation: 0, epoch: 3 }));
        assert!(pins.admits(&who, Pin { rotation: 1, epoch: 0 }));
        let pins = Pins::new(store);
        assert!(!pins.admits(&who, Pin { rotation: 0, epoch: 9 }));
        assert!(pins.admits(&who, Pin { rotation: 1, epoch: 1 }));
        assert!(pins.admits(&IdHash([5; 22]), Pin::default()));
    }
}
