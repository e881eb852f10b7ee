//! Signed bundles for this module's tests, at a fixed time.

use crate::clock::UnixMillis;
use crate::identity::{CertificateBytes, NodeSecret, Seed, UserIdentity};
use crate::record::{self, EntryDraft, Judge, RecordKey, UserHeader, ValidBundle};
use crate::wire::{AddressScope, OverlayId};

pub(super) const OVERLAY: OverlayId = OverlayId([3; 32]);
pub(super) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

pub(super) fn judge() -> Judge {
    Judge { overlay: OVERLAY, scope: AddressScope::Any, now: NOW }
}

/// A user with one device.
pub(super) struct Person {
    pub(super) user: UserIdentity,
    certificate: CertificateBytes,
    device: NodeSecret,
}

impl Person {
    pub(super) fn new() -> Self {
        let (user, device) = (Seed::generate().identity(), NodeSecret::generate());
        let certificate = user.certify(device.public(), &OVERLAY, 0, NOW);
        Self { user, certificate, device }
    }

    pub(super) fn keys(&self) -> [RecordKey; 4] {
        record::replica_keys(&OVERLAY, &self.user.id)
    }

    /// The entry published `sequence` times before, good for an hour.
    pub(super) fn bytes(&self, sequence: u64, addresses: usize) -> Vec<u8> {
        let draft = EntryDraft {
            epoch: 0,
            sequence: NOW.0 + sequence,
            issued_at: NOW,
            expires_at: UnixMillis(NOW.0 + 3_600_000),
            tombstone: false,
            priority: 0,
            addresses: vec![vec![4, 8, 8, 8, 8, 6, 1, 1]; addresses],
        };
        let header = UserHeader::from(&self.user);
        record::sign_bundle(&header, &self.certificate, &self.device, &OVERLAY, &draft)
    }

    pub(super) fn bundle(&self, sequence: u64) -> ValidBundle {
        record::validate(&self.bytes(sequence, 0), &self.keys()[0], &judge(), None).unwrap()
    }
}
