//! What libp2p's kad sees of the records that this node keeps: it may read them, and that is all. They are kept, judged
//! and bounded by [`Holding`]; puts of kad go through the same intake as those of `store/1`.

use crate::clock::UnixMillis;
use crate::dht::{Holding, Limits, Position};
use crate::record::RecordKey;
use libp2p::PeerId;
use libp2p::kad::{ProviderRecord, Record, RecordKey as KadKey, store};
use std::borrow::Cow;
use std::time::{Duration, Instant};

pub(super) use crate::dht::Write;

/// The holding, with kad's face.
pub(super) struct Records {
    pub(super) holding: Holding,
    clock: fn() -> UnixMillis,
}

impl Records {
    /// `max`: records; their bytes are bounded in the same proportion.
    pub(super) fn new(here: Position, max: usize, clock: fn() -> UnixMillis) -> Self {
        let all = Limits::default();
        let bytes = (all.bytes / all.records).saturating_mul(max).min(all.bytes);
        let limits = Limits { records: max.min(all.records), bytes };
        Self { holding: Holding::new(here, limits), clock }
    }
}

impl store::RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &KadKey) -> Option<Cow<'_, Record>> {
        let held = RecordKey(key.as_ref().try_into().ok()?);
        let now = (self.clock)();
        let value = self.holding.fetch(&held, now)?.to_vec();
        let left = Duration::from_millis(self.holding.expires_at(&held)?.0.saturating_sub(now.0));
        Some(Cow::Owned(Record { key: key.clone(), value, publisher: None, expires: Instant::now().checked_add(left) }))
    }

    /// Only the intake stores: kad's own way in is shut.
    fn put(&mut self, _record: Record) -> store::Result<()> {
        Err(store::Error::MaxRecords)
    }

    fn remove(&mut self, _key: &KadKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, _record: ProviderRecord) -> store::Result<()> {
        Err(store::Error::MaxProvidedKeys)
    }

    fn providers(&self, _key: &KadKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, _key: &KadKey, _provider: &PeerId) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::sample::{NOW, Person, judge};
    use libp2p::kad::store::RecordStore;

    #[test]
    fn kad_reads_what_is_held_until_it_ends_and_writes_nothing() {
        let later = || UnixMillis(NOW.0 + 3_600_000);
        let person = Person::new();
        let [key, other, ..] = person.keys();
        let mut records = Records::new(Position::default(), 100, || NOW);
        assert!(records.holding.keep(key, &person.bundle(0), 1.0, &judge()));
        let read = records.get(&KadKey::new(&key.0)).unwrap().into_owned();
        assert_eq!(read.value, person.bundle(0).encode());
        assert_eq!(records.get(&KadKey::new(&other.0)), None);
        assert_eq!(records.get(&KadKey::new(b"short")), None);
        assert!(records.put(Record::new(KadKey::new(&other.0), read.value)).is_err());
        assert_eq!(records.holding.len(), 1);
        records.clock = later;
        assert_eq!(records.get(&KadKey::new(&key.0)), None);
    }
}
