//! Proof of work for holders under load: minted off the async threads, one at a time, once for all holders of a key, and
//! shown at once to the next.
//!
//! A liar in every region could ask for the most that an honest holder asks for, from everybody and for ever. So what
//! costs more than a few hundredths of a second is paid only if holders of two networks want it, and then the second
//! highest price; and all that is minted in an hour has a bound.

use super::actor::Actor;
use super::asking::{Asker, Pending};
use crate::clock::UnixMillis;
use crate::dht::{Answer, Ask, MAX_STAMP_BITS, Stamp, Stored};
use crate::record::RecordKey;
use bytes::Bytes;
use libp2p::PeerId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// Stamps kept: a gateway's thousand users have four keys each. They are good for a day.
const MAX_STAMPS: usize = 8_192;
const DAY_MS: u64 = 86_400_000;

/// Keys that holders want stamps for at once, and questions that wait for one of them. Others are told "no" for now.
const MAX_KEYS: usize = 256;
const MAX_WAITING: usize = 64;

/// Paid on one holder's word: 0.03 s of a core.
const CHEAP: u8 = 18;

/// Who wants more waits so long for a second holder to want it too; its operation gives up after 4 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// Hashes in an hour, expected: some 7 minutes of a core. A gateway of 1,000 users in an overlay whose holders are all
/// crowded (2^20 for each of 4,000 keys) spends that in a day.
const HOURLY: f64 = 4_294_967_296.0;

/// Hashes between two looks at whether the node is to stop: 0.1 s of a core.
const SLICE: u64 = 1 << 20;

/// What a mint says: for which key and bits, and the stamp.
pub(super) type Minted = (RecordKey, u8, Option<Stamp>);

/// A holder's wish.
struct Want {
    bits: u8,
    /// Its /24 or /48.
    network: Option<u64>,
    from: Option<(PeerId, Pending)>,
}

struct Wants {
    since: Instant,
    all: Vec<Want>,
    /// What is minted for now.
    minting: Option<u8>,
}

/// What the wishes are worth: the highest cheap one, or the highest but one of different networks.
fn price(wants: &[Want]) -> Option<u8> {
    let cheap = wants.iter().map(|want| want.bits).filter(|bits| *bits <= CHEAP).max();
    let mut by_network: HashMap<u64, u8> = HashMap::new();
    for want in wants {
        if let Some(network) = want.network {
            let highest = by_network.entry(network).or_default();
            *highest = want.bits.max(*highest);
        }
    }
    let mut highest: Vec<u8> = by_network.into_values().collect();
    highest.sort_unstable();
    let second = highest.len().checked_sub(2).map(|at| highest[at]);
    cheap.max(second)
}

/// Hashes that may still be made.
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn spend(&mut self, bits: u8, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + passed * HOURLY / 3_600.0).min(HOURLY), now);
        let cost = f64::from(bits).exp2();
        let may = self.left >= cost;
        if may {
            self.left -= cost;
        }
        may
    }
}

pub(super) struct Paying {
    have: HashMap<RecordKey, (Stamp, u8, UnixMillis)>,
    wanted: HashMap<RecordKey, Wants>,
    budget: Budget,
    sender: mpsc::Sender<Minted>,
    /// One core at most.
    mint: Arc<Semaphore>,
}

impl Paying {
    pub(super) fn new(now: Instant) -> (Self, mpsc::Receiver<Minted>) {
        let (sender, minted) = mpsc::channel(MAX_KEYS);
        let mint = Arc::new(Semaphore::new(1));
        let budget = Budget { left: HOURLY, at: now };
        (Self { have: HashMap::new(), wanted: HashMap::new(), budget, sender, mint }, minted)
    }

    /// The stamp to show beside `ask`, if one was ever wanted for its key.
    pub(super) fn stamp_for(&self, ask: &Ask) -> Bytes {
        let stamp = match ask {
            Ask::Store(key, _) => self.have.get(key),
            Ask::Find(_) | Ask::Fetch(_) | Ask::List(_) | Ask::Enlist(..) => None,
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

    /// A stamp of today that is worth so much.
    fn has(&self, key: &RecordKey, bits: u8, now: UnixMillis) -> Option<Stamp> {
        let (stamp, worth, at) = self.have.get(key)?;
        (*worth >= bits && now.0.abs_diff(at.0) < DAY_MS).then_some(*stamp)
    }

    /// Notes a wish. Hands the question back when there is no room for it.
    fn want(&mut self, key: RecordKey, want: Want, now: Instant) -> Option<Want> {
        if !self.wanted.contains_key(&key) && self.wanted.len() >= MAX_KEYS {
            return Some(want);
        }
        let wants = self.wanted.entry(key).or_insert(Wants { since: now, all: Vec::new(), minting: None });
        if wants.all.len() >= MAX_WAITING {
            return Some(want);
        }
        wants.all.push(want);
        None
    }

    /// What is to be minted for `key` now, if anything; noted as begun, and as spent.
    ///
    /// # Errors
    /// When enough was minted for now.
    fn next(&mut self, key: &RecordKey, wall: UnixMillis, now: Instant) -> Result<Option<u8>, ()> {
        let Some(wants) = self.wanted.get_mut(key).filter(|wants| wants.minting.is_none()) else { return Ok(None) };
        let had = self.have.get(key).filter(|(_, _, at)| wall.0.abs_diff(at.0) < DAY_MS).map(|(_, worth, _)| *worth);
        let Some(bits) = price(&wants.all).filter(|bits| had.is_none_or(|had| had < *bits)) else { return Ok(None) };
        if !self.budget.spend(bits, now) {
            return Err(());
        }
        wants.minting = Some(bits);
        Ok(Some(bits))
    }

    /// Questions that nobody will pay for any more, with what was wanted.
    fn given_up(&mut self, now: Instant) -> Vec<(PeerId, Pending, u8)> {
        let mut over = Vec::new();
        self.wanted.retain(|_, wants| {
            let waits = wants.minting.is_some() || now < wants.since + PATIENCE;
            if !waits {
                over.append(&mut wants.all);
            }
            waits
        });
        let told = |want: Want| want.from.map(|(peer, pending)| (peer, pending, want.bits));
        over.into_iter().filter_map(told).collect()
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
        if let Some(stamp) = self.paying.has(&key, bits, UnixMillis::now()) {
            self.send_paid(peer, pending, stamp);
            return None;
        }
        let network = pending.card.as_ref().map(|card| card.network.subnet);
        let want = Want { bits, network, from: Some((peer, pending)) };
        if let Some(refused) = self.paying.want(key, want, Instant::now()) {
            return refused.from.map(|(_, pending)| pending);
        }
        self.mint(key);
        None
    }

    /// Mints for a key if its holders' wishes are worth it.
    fn mint(&mut self, key: RecordKey) {
        let wall = UnixMillis::now();
        let bits = match self.paying.next(&key, wall, Instant::now()) {
            Ok(Some(bits)) => bits,
            Ok(None) => return,
            Err(()) => return self.meter.refuse("own: enough stamps for this hour".into()),
        };
        let (sender, mint) = (self.paying.sender.clone(), self.paying.mint.clone());
        tokio::spawn(async move {
            let Ok(_permit) = mint.acquire_owned().await else { return };
            let mut stamp = None;
            // Eight times what is usual: fails once in 3,000. In slices, or a node that stops would wait for it.
            for from in (0..8_u64 << bits).step_by(SLICE as usize) {
                if sender.is_closed() || stamp.is_some() {
                    break;
                }
                let work = move || Stamp::mint(&key, bits, wall, from, SLICE);
                stamp = tokio::task::spawn_blocking(work).await.unwrap_or_default();
            }
            // The overlay may have stopped.
            let _ = sender.send((key, bits, stamp)).await;
        });
    }

    pub(super) fn minted(&mut self, (key, bits, stamp): Minted) {
        let Some(mut wants) = self.paying.wanted.remove(&key) else { return };
        wants.minting = None;
        let Some(stamp) = stamp else {
            // Bad luck: they are told "no" in the next round.
            self.paying.wanted.insert(key, Wants { since: wants.since, ..wants });
            return;
        };
        self.meter.stamps.inc();
        self.paying.keep(key, stamp, bits, UnixMillis::now());
        for want in wants.all.iter_mut().filter(|want| want.bits <= bits) {
            if let Some((peer, pending)) = want.from.take() {
                self.send_paid(peer, pending, stamp);
            }
        }
        if wants.all.iter().any(|want| want.from.is_some()) {
            self.paying.wanted.insert(key, wants);
            self.mint(key);
        }
    }

    /// Once a second: who wants too much is told "no".
    pub(super) fn pay_no_more(&mut self, now: Instant) {
        for (_, pending, bits) in self.paying.given_up(now) {
            self.meter.refuse("own: a stamp that one network wants".into());
            self.outcomes.push_back((pending.asker, Ok(Answer::Stored(Stored::Stamp { bits }))));
        }
    }

    fn send_paid(&mut self, peer: PeerId, mut pending: Pending, stamp: Stamp) {
        pending.question.stamp = Bytes::copy_from_slice(&stamp.encode());
        pending.question.nonce = crate::identity::random();
        pending.paid = true;
        self.send(&peer, pending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: RecordKey = RecordKey([7; 32]);
    const WALL: UnixMillis = UnixMillis(1_800_000_000_000);

    fn want(bits: u8, network: u64) -> Want {
        Want { bits, network: Some(network), from: None }
    }

    #[test]
    fn one_network_s_wish_is_paid_only_if_it_is_cheap() {
        assert_eq!(price(&[]), None);
        assert_eq!(price(&[want(14, 1)]), Some(14));
        assert_eq!(price(&[want(24, 1)]), None);
        assert_eq!(price(&[want(24, 1), want(24, 1), want(23, 1)]), None, "one network");
        assert_eq!(price(&[want(24, 1), want(20, 2)]), Some(20), "what the honest one wants");
        assert_eq!(price(&[want(24, 1), want(20, 2), want(21, 3)]), Some(21));
        assert_eq!(price(&[want(24, 1), want(14, 1)]), Some(14));
        let unknown = Want { bits: 24, network: None, from: None };
        assert_eq!(price(&[unknown, want(24, 1)]), None);
    }

    #[test]
    fn an_hour_has_a_bound_whatever_is_wanted() {
        let now = Instant::now();
        let (mut paying, _minted) = Paying::new(now);
        let mut spent = 0;
        // Two liars want the most for every key of a gateway.
        for n in 0..4_000_u32 {
            let key = RecordKey(std::array::from_fn(|i| n.to_be_bytes()[i % 4]));
            assert!(paying.want(key, want(24, 1), now).is_none());
            assert!(paying.want(key, want(24, 2), now).is_none());
            spent += usize::from(paying.next(&key, WALL, now) == Ok(Some(24)));
            paying.wanted.clear();
        }
        assert_eq!(spent, 256, "2^32 hashes");
        assert!(!paying.budget.spend(24, now) && paying.budget.spend(24, now + Duration::from_secs(15)));
    }

    #[test]
    fn what_is_minted_is_not_minted_again_and_who_wants_more_waits_in_vain() {
        let now = Instant::now();
        let (mut paying, _minted) = Paying::new(now);
        assert!(paying.want(KEY, want(14, 1), now).is_none());
        assert_eq!(paying.next(&KEY, WALL, now), Ok(Some(14)));
        assert_eq!(paying.next(&KEY, WALL, now), Ok(None), "under way");
        paying.wanted.get_mut(&KEY).unwrap().minting = None;
        paying.keep(KEY, Stamp { day: 1, nonce: 1 }, 14, WALL);
        assert!(paying.has(&KEY, 14, WALL).is_some() && paying.has(&KEY, 15, WALL).is_none());
        assert_eq!(paying.next(&KEY, WALL, now), Ok(None));
        assert!(paying.want(KEY, want(24, 1), now).is_none());
        assert_eq!(paying.next(&KEY, WALL, now), Ok(None), "one network");
        assert!(paying.given_up(now + PATIENCE / 2).is_empty() && !paying.wanted.is_empty());
        paying.given_up(now + PATIENCE);
        assert!(paying.wanted.is_empty());
    }

    #[test]
    fn wishes_are_bounded() {
        let now = Instant::now();
        let (mut paying, _minted) = Paying::new(now);
        let refused = (0..1_000_u64).filter(|n| paying.want(KEY, want(20, *n), now).is_some()).count();
        assert_eq!(refused, 1_000 - MAX_WAITING);
        let refused = (0..1_000_u32).filter(|n| {
            let key = RecordKey(std::array::from_fn(|i| n.to_le_bytes()[i % 4]));
            paying.want(key, want(20, 1), now).is_some()
        });
        assert_eq!(refused.count(), 1_000 - (MAX_KEYS - 1));
    }
}
