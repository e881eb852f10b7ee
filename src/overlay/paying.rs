//! Proof of work for holders under load: minted off the async threads, one at a time, once for all holders of a key, and
//! shown at once to the next.

use super::actor::Actor;
use super::asking::{Asker, Pending};
use crate::clock::UnixMillis;
use crate::dht::{Ask, MAX_STAMP_BITS, Stamp};
use crate::record::RecordKey;
use bytes::Bytes;
use libp2p::PeerId;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Stamps kept: a gateway's thousand users have four keys each. They are good for a day.
const MAX_STAMPS: usize = 8_192;
const DAY_MS: u64 = 86_400_000;

/// Keys that are minted for at once, and questions that wait for one of them. Others are told "no" for now.
const MAX_MINTED: usize = 256;
const MAX_WAITING: usize = 64;

/// What a mint says: for which key and bits, and the stamp.
pub(super) type Minted = (RecordKey, u8, Option<Stamp>);

pub(super) struct Paying {
    have: HashMap<RecordKey, (Stamp, u8, UnixMillis)>,
    minted_for: HashMap<RecordKey, Vec<(PeerId, Pending)>>,
    sender: mpsc::Sender<Minted>,
    /// One core at most.
    mint: Arc<Semaphore>,
}

impl Paying {
    pub(super) fn new() -> (Self, mpsc::Receiver<Minted>) {
        let (sender, minted) = mpsc::channel(MAX_MINTED);
        let mint = Arc::new(Semaphore::new(1));
        (Self { have: HashMap::new(), minted_for: HashMap::new(), sender, mint }, minted)
    }

    /// The stamp to show beside `ask`, if one was ever wanted for its key.
    pub(super) fn stamp_for(&self, ask: &Ask) -> Bytes {
        let stamp = match ask {
            Ask::Store(key, _) => self.have.get(key),
            Ask::Find(_) | Ask::Fetch(_) => None,
        };
        stamp.map_or_else(Bytes::new, |(stamp, ..)| Bytes::copy_from_slice(&stamp.encode()))
    }

    fn keep(&mut self, key: RecordKey, stamp: Stamp, bits: u8, now: UnixMillis) {
        if self.have.len() >= MAX_STAMPS {
            self.have.retain(|_, (_, _, at)| now.0.abs_diff(at.0) < DAY_MS);
        }
        if self.have.len() < MAX_STAMPS || self.have.contains_key(&key) {
            self.have.insert(key, (stamp, bits, now));
        }
    }
}

impl Actor {
    /// A holder wants `bits` for a question of ours. Hands the question back when it is not worth it: not an own
    /// publication, more than an honest holder asks for, or paid already.
    pub(super) fn pay(&mut self, peer: PeerId, pending: Pending, bits: u8) -> Option<Pending> {
        let Ask::Store(key, _) = pending.question.ask else { return Some(pending) };
        let own = matches!(pending.asker, Asker::Request(..));
        if !own || bits > MAX_STAMP_BITS || pending.paid {
            return Some(pending);
        }
        let now = UnixMillis::now();
        let paying = &mut self.paying;
        if let Some((stamp, worth, at)) = paying.have.get(&key)
            && *worth >= bits
            && now.0.abs_diff(at.0) < DAY_MS
        {
            let stamp = *stamp;
            self.send_paid(peer, pending, stamp);
            return None;
        }
        if let Some(waiting) = paying.minted_for.get_mut(&key) {
            if waiting.len() >= MAX_WAITING {
                return Some(pending);
            }
            waiting.push((peer, pending));
            return None;
        }
        if paying.minted_for.len() >= MAX_MINTED {
            return Some(pending);
        }
        paying.minted_for.insert(key, vec![(peer, pending)]);
        let (sender, mint) = (paying.sender.clone(), paying.mint.clone());
        tokio::spawn(async move {
            let Ok(_permit) = mint.acquire_owned().await else { return };
            // Eight times what is usual: fails once in 3,000.
            let work = move || Stamp::mint(&key, bits, now, 0, 8 << bits);
            let stamp = tokio::task::spawn_blocking(work).await.unwrap_or_default();
            // The overlay may have stopped.
            let _ = sender.send((key, bits, stamp)).await;
        });
        None
    }

    pub(super) fn minted(&mut self, (key, bits, stamp): Minted) {
        let waiting = self.paying.minted_for.remove(&key).unwrap_or_default();
        let Some(stamp) = stamp else {
            // Nobody is told: their operations give them up in time.
            return;
        };
        self.meter.stamps.inc();
        self.paying.keep(key, stamp, bits, UnixMillis::now());
        for (peer, pending) in waiting {
            self.send_paid(peer, pending, stamp);
        }
    }

    fn send_paid(&mut self, peer: PeerId, mut pending: Pending, stamp: Stamp) {
        pending.question.stamp = Bytes::copy_from_slice(&stamp.encode());
        pending.question.nonce = crate::identity::random();
        pending.paid = true;
        self.send(&peer, pending);
    }
}
