//! What a node keeps for others, on disk: read once at the start, written behind. The store is slower than the network
//! may be; what waits for it is bounded, and no removal is lost to that.

use super::actor::Actor;
use super::records::Write;
use crate::clock::UnixMillis;
use crate::dht::{Row, Unread};
use crate::record::{Judge, RecordKey};
use crate::store::{Store, Table};
use crate::wire::{AddressScope, OverlayId};
use std::time::Duration;
use tokio::sync::mpsc;

/// Batches of writes that wait for the store, rows in each, and batches of records that come from it. What is written
/// takes 12 MiB at most while it waits.
const WRITES: usize = 8;
const WRITE_BATCH: usize = 128;
const LOADS: usize = 4;
const LOAD_BATCH: usize = 64;

/// A machine without a battery learns the time from the network: reading waits for that, in steps of so long. What
/// cannot be judged would not be served.
const CLOCK_AGAIN: Duration = Duration::from_secs(5);
const CLOCK_SET: UnixMillis = UnixMillis(1_767_225_600_000);

/// Records of the store, and which users they are of.
pub(super) type Loaded = Vec<(RecordKey, Row)>;

/// Reads what an earlier life kept, as soon as the clock is set. Ends early when the receiver is gone.
pub(super) fn spawn_loader(
    store: Store,
    max: usize,
    overlay: OverlayId,
    scope: AddressScope,
) -> mpsc::Receiver<Loaded> {
    let (loads, loaded) = mpsc::channel(LOADS);
    tokio::spawn(async move {
        while UnixMillis::now() < CLOCK_SET {
            tokio::select! {
                () = tokio::time::sleep(CLOCK_AGAIN) => {}
                () = loads.closed() => return,
            }
        }
        let judge = Judge { overlay, scope, now: UnixMillis::now() };
        // It says itself what it cannot read.
        let _ = tokio::task::spawn_blocking(move || load(&store, max, &judge, &loads)).await;
    });
    loaded
}

/// The third door of the validator: what is on disk is judged like what comes from a peer. Only what can never be good
/// again is removed. Blocking.
fn load(store: &Store, max: usize, judge: &Judge, loaded: &mpsc::Sender<Loaded>) {
    let rows = match store.scan(Table::Records, usize::MAX) {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(%error, "held records cannot be read");
            return;
        }
    };
    // What is kept in doubt has a bound too.
    let mut room = max.saturating_mul(2);
    let (mut batch, mut kept) = (Vec::new(), 0);
    for (key, bytes) in rows {
        let key = <[u8; 32]>::try_from(key.as_slice()).map(RecordKey).map_err(|_| key);
        let row = match &key {
            Ok(key) => Row::read(key, &bytes, judge),
            Err(_) => Err(Unread::Worthless),
        };
        match (&key, row) {
            (Ok(key), Ok(row)) if kept < max => {
                kept += 1;
                batch.push((*key, row));
            }
            (Ok(_), Err(Unread::NotNow)) if room > 0 => room -= 1,
            _ => {
                let name = key.as_ref().map_or_else(|odd| odd.as_slice(), |key| &key.0);
                if let Err(error) = store.remove(Table::Records, name) {
                    tracing::debug!(%error, "a stale record stays on disk");
                }
            }
        }
        if batch.len() >= LOAD_BATCH && loaded.blocking_send(std::mem::take(&mut batch)).is_err() {
            return;
        }
    }
    // The actor may have stopped already.
    let _ = loaded.blocking_send(batch);
}

/// Writes records behind, off the async threads. Ends when the actor drops the sender.
pub(super) fn spawn_writer(store: Store) -> (mpsc::Sender<Vec<Write>>, tokio::task::JoinHandle<()>) {
    let (writer, mut writes) = mpsc::channel::<Vec<Write>>(WRITES);
    let task = tokio::spawn(async move {
        let mut batches = Vec::new();
        while writes.recv_many(&mut batches, WRITES).await > 0 {
            let rows: Vec<Write> = batches.drain(..).flatten().collect();
            let store = store.clone();
            let written = tokio::task::spawn_blocking(move || {
                // Each by itself: a row that has no place must not keep the others from being removed.
                let mut outcome = Ok(());
                for (key, value) in rows {
                    let result = match value {
                        Some(value) => store.put(Table::Records, &key.0, &value),
                        None => store.remove(Table::Records, &key.0),
                    };
                    outcome = outcome.and(result);
                }
                outcome
            });
            if let Ok(Err(error)) = written.await {
                tracing::warn!(%error, "records are kept in memory only");
            }
        }
    });
    (writer, task)
}

impl Actor {
    /// What the records want written goes to the writer; while that is busy, it waits where it is.
    pub(super) fn write_behind(&mut self) {
        while self.holding().is_behind() {
            let writer = self.writer.clone();
            let Ok(place) = writer.try_reserve() else { break };
            let rows = self.holding().take_writes(WRITE_BATCH);
            place.send(rows);
        }
        for _ in 0..self.holding().take_unwritten() {
            self.meter.refuse("own: a row is not written".into());
        }
    }

    /// The rest, before the end.
    pub(super) async fn write_all(&mut self) {
        while self.holding().is_behind() {
            let rows = self.holding().take_writes(WRITE_BATCH);
            if self.writer.send(rows).await.is_err() {
                return;
            }
        }
    }

    pub(super) fn load(&mut self, records: Loaded) {
        let (now, region) = (UnixMillis::now(), self.region());
        for (key, row) in records {
            // What has no room or is over now is not kept; nobody needs to know.
            let _ = self.holding().restore(key, &row, region, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::sample::{NOW, Person, judge};

    #[test]
    fn a_clock_that_is_wrong_removes_nothing_and_what_is_damaged_goes() {
        let store = Store::temporary().unwrap();
        let person = Person::new();
        let [key, ..] = person.keys();
        store.put(Table::Records, &key.0, &person.bytes(0, 0)).unwrap();
        let read = |now: UnixMillis| {
            let (loads, mut loaded) = mpsc::channel(LOADS);
            load(&store, 10, &Judge { now, ..judge() }, &loads);
            loaded.try_recv().unwrap().len()
        };
        let years = 10 * 365 * 86_400_000;
        for wrong in [UnixMillis(3_600_000), UnixMillis(NOW.0 - 86_400_000), UnixMillis(NOW.0 + years)] {
            assert_eq!(read(wrong), 0);
            assert_eq!(store.len(Table::Records), 1, "{wrong:?}");
        }
        assert_eq!(read(NOW), 1, "the right time has come");
        store.put(Table::Records, &[7; 32], &person.bytes(0, 0)).unwrap();
        store.put(Table::Records, b"no key", &person.bytes(0, 0)).unwrap();
        assert_eq!(read(NOW), 1);
        assert_eq!(store.len(Table::Records), 1);
        assert_eq!(read(UnixMillis(NOW.0 + 3 * 3_600_000)), 0);
        assert_eq!(store.len(Table::Records), 0, "it is over");
    }
}
