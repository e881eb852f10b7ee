//! The one user of a trial: real keys, a real certificate, two real bundles, judged by the product's validator.

use super::rng::Rng;
use super::world::NOW;
use bytes::Bytes;
use peerline::clock::UnixMillis;
use peerline::identity::{NodeKey, NodeSecret, Seed};
use peerline::record::{
    EntryDraft, Judge, RecordKey, RejectReason, UserHeader, ValidBundle, replica_keys, sign_bundle, validate,
};
use peerline::wire::{AddressScope, OverlayId};
use std::cell::RefCell;
use std::collections::HashMap;

pub const OVERLAY: OverlayId = OverlayId([5; 32]);

/// Which record of the user bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    Old,
    New,
    /// Nothing of hers.
    Forged,
}

/// The validator's word on bytes, and beside which bytes.
type Verdicts = HashMap<(Which, Option<Which>), Result<(), RejectReason>>;

pub struct User {
    pub keys: [RecordKey; 4],
    pub device: NodeKey,
    pub sequence: u64,
    old: Bytes,
    new: Bytes,
    forged: [Bytes; 3],
    /// What her clock shows too much, milliseconds.
    pub skew: i64,
    verdicts: RefCell<Verdicts>,
}

pub fn judge() -> Judge {
    judge_at(0)
}

/// By a clock that shows so much too much.
pub fn judge_at(skew: i64) -> Judge {
    Judge { overlay: OVERLAY, scope: AddressScope::Any, now: UnixMillis(NOW.0.saturating_add_signed(skew)) }
}

impl User {
    pub fn new(rng: &mut Rng, skew: i64) -> Self {
        let now = judge_at(skew).now;
        let user = Seed::from_bytes(rng.bytes()).identity();
        let device = NodeSecret::from_bytes(rng.bytes());
        let certificate = user.certify(device.public(), &OVERLAY, 1, UnixMillis(NOW.0 - 86_400_000));
        let header = UserHeader::from(&user);
        let bundle = |secret: &NodeSecret, issued: UnixMillis| {
            let draft = EntryDraft {
                epoch: 1,
                sequence: issued.0,
                issued_at: issued,
                expires_at: UnixMillis(issued.0 + 3_600_000),
                tombstone: false,
                priority: 500,
                addresses: vec![vec![4, 8, 8, 8, 8, 6, 0x0f, 0xa1]],
            };
            Bytes::from(sign_bundle(&header, &certificate, secret, &OVERLAY, &draft))
        };
        let new = bundle(&device, now);
        // Later than the new one: signed by a key that the user never certified, with a bit turned, cut off.
        let foreign = bundle(&NodeSecret::from_bytes(rng.bytes()), UnixMillis(now.0 + 60_000));
        let mut turned = new.to_vec();
        let place = turned.len() - 7;
        turned[place] ^= 4;
        let forged = [foreign, Bytes::from(turned), new.slice(..new.len() - 1)];
        Self {
            keys: replica_keys(&OVERLAY, &user.id),
            device: device.public(),
            sequence: now.0,
            old: bundle(&device, UnixMillis(now.0 - 1_200_000)),
            new,
            forged,
            skew,
            verdicts: RefCell::new(HashMap::new()),
        }
    }

    pub fn index_of(&self, key: &RecordKey) -> Option<u8> {
        self.keys.iter().position(|of| of == key).map(|j| j as u8)
    }

    pub fn bytes(&self, which: Which) -> Bytes {
        match which {
            Which::Old => self.old.clone(),
            Which::New => self.new.clone(),
            Which::Forged => self.forged[0].clone(),
        }
    }

    pub fn forged(&self, by: u32) -> Bytes {
        self.forged[by as usize % self.forged.len()].clone()
    }

    pub fn which(&self, bytes: &[u8]) -> Which {
        if bytes == self.new {
            Which::New
        } else if bytes == self.old {
            Which::Old
        } else {
            Which::Forged
        }
    }

    pub fn new_bundle(&self) -> ValidBundle {
        validate(&self.new, &self.keys[0], &judge_at(self.skew), None).expect("the simulator signs valid bundles")
    }

    /// What a holder of `held` makes of `which`: the product's validator, asked once for each pair.
    pub fn judge(&self, which: Which, held: Option<Which>) -> Result<(), RejectReason> {
        *self.verdicts.borrow_mut().entry((which, held)).or_insert_with(|| {
            let of = |which| validate(&self.bytes(which), &self.keys[0], &judge(), None);
            let held = held.and_then(|held| of(held).ok());
            validate(&self.bytes(which), &self.keys[0], &judge(), held.as_ref()).map(|_| ())
        })
    }

    /// What a bundle that a lookup found says.
    pub fn recognise(&self, bundle: &ValidBundle) -> Which {
        match bundle.sequence_of(&self.device) {
            Some(sequence) if sequence == self.sequence => Which::New,
            Some(sequence) if sequence < self.sequence => Which::Old,
            _ => Which::Forged,
        }
    }
}
