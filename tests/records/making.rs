//! Makes records piece by piece, right or wrong in one place, from fixed seeds: the same bytes on each run.

use ed25519_dalek::SigningKey;
use peerline::clock::UnixMillis;
use peerline::identity::Seed;
use peerline::record::{Judge, RecordKey, door_key, replica_keys};
use peerline::uri::IdHash;
use peerline::wire::signature::NONE;
use peerline::wire::{AddressScope, Domain, Genesis, OverlayId, pb, sign};
use prost::Message;
use prost::bytes::Bytes;

/// 2026-11-22T16:00:00Z, the judge's clock.
pub const NOW: u64 = 1_795_363_200;
pub const NOW_MILLIS: u64 = NOW * 1_000;

/// `/ip4/93.184.216.34/udp/4001/quic-v1`
pub const PUBLIC_ADDRESS: &[u8] = &[4, 93, 184, 216, 34, 0x91, 0x02, 0x0f, 0xa1, 0xcd, 0x03];
/// `/ip4/192.168.1.2/tcp/4001`
pub const PRIVATE_ADDRESS: &[u8] = &[4, 192, 168, 1, 2, 6, 0x0f, 0xa1];

pub fn overlay() -> OverlayId {
    Genesis::built_in().id()
}

pub fn judge() -> Judge {
    Judge { overlay: overlay(), scope: AddressScope::Global, now: UnixMillis(NOW_MILLIS) }
}

pub fn device(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub fn public(key: &SigningKey) -> Bytes {
    Bytes::copy_from_slice(key.verifying_key().as_bytes())
}

pub fn signed(payload: Vec<u8>, signature: [u8; 64]) -> Vec<u8> {
    pb::Signed { payload: payload.into(), signature: Bytes::copy_from_slice(&signature) }.encode_to_vec()
}

/// A user with their paper.
#[derive(Clone)]
pub struct Person {
    pub seed: Seed,
    pub inception: [u8; 65],
    pub rotations: Vec<Vec<u8>>,
    pub overlay: OverlayId,
}

impl Person {
    pub fn new(n: u8) -> Self {
        let seed = Seed::from_bytes([n; 32]);
        let identity = seed.identity();
        Self { seed, inception: identity.inception, rotations: Vec::new(), overlay: overlay() }
    }

    pub fn id(&self) -> IdHash {
        IdHash::of_inception(&self.inception)
    }

    pub fn key(&self) -> RecordKey {
        replica_keys(&self.overlay, &self.id())[0]
    }

    pub fn rotation(&self) -> u32 {
        self.rotations.len() as u32
    }

    pub fn root(&self) -> SigningKey {
        self.seed.root_key(self.rotation())
    }

    pub fn recovery(&self) -> SigningKey {
        self.seed.recovery_key(self.rotation())
    }

    fn idhash(&self) -> Bytes {
        Bytes::copy_from_slice(&self.id().0)
    }

    pub fn rotated(&self) -> Self {
        self.rotated_with(|_| {})
    }

    pub fn rotated_with(&self, change: impl FnOnce(&mut pb::Rotation)) -> Self {
        let mut next = self.clone();
        let n = self.rotation() + 1;
        let mut rotation = pb::Rotation {
            idhash: self.idhash(),
            n,
            new_root_key: public(&self.seed.root_key(n)),
            new_recovery_hash: Bytes::copy_from_slice(&commitment(&self.seed.recovery_key(n))),
            recovery_key: public(&self.recovery()),
        };
        change(&mut rotation);
        let payload = rotation.encode_to_vec();
        let signature = sign(&self.recovery(), Domain::Rotation, None, &NONE, &payload);
        next.rotations.push(signed(payload, signature));
        next
    }

    pub fn certificate(&self, device: &SigningKey, change: impl FnOnce(&mut pb::DeviceCertificate)) -> Vec<u8> {
        let mut certificate = pb::DeviceCertificate {
            idhash: self.idhash(),
            rotation: self.rotation(),
            epoch: 1,
            serial: u64::from(device.verifying_key().as_bytes()[0]) + 1_000,
            device_key: public(device),
            rights: 7,
            not_before: NOW - 3_600,
            not_after: NOW + 30 * 86_400,
            caveats: None,
        };
        change(&mut certificate);
        self.sign_certificate(certificate.encode_to_vec())
    }

    pub fn sign_certificate(&self, payload: Vec<u8>) -> Vec<u8> {
        let signature = sign(&self.root(), Domain::Device, Some(&self.overlay), &NONE, &payload);
        signed(payload, signature)
    }

    /// An entry of `device` under its usual certificate.
    pub fn entry(&self, device: &SigningKey, change: impl FnOnce(&mut pb::Envelope, &mut pb::Body)) -> Vec<u8> {
        self.entry_under(self.certificate(device, |_| {}), device, change)
    }

    pub fn entry_under(
        &self,
        certificate: Vec<u8>,
        device: &SigningKey,
        change: impl FnOnce(&mut pb::Envelope, &mut pb::Body),
    ) -> Vec<u8> {
        let mut body = pb::Body {
            priority: 500,
            addresses: vec![Bytes::from_static(PUBLIC_ADDRESS)],
            capabilities: 1,
            ..Default::default()
        };
        let mut envelope = pb::Envelope {
            idhash: self.idhash(),
            rotation: self.rotation(),
            epoch: 1,
            sequence: NOW_MILLIS,
            issued_at: NOW,
            expires_at: NOW + 3_600,
            state: 1,
            body: Bytes::new(),
            ver: 0,
        };
        change(&mut envelope, &mut body);
        if envelope.body.is_empty() {
            envelope.body = body.encode_to_vec().into();
        }
        let envelope = envelope.encode_to_vec();
        let door = door_key(&self.overlay, &self.id());
        let signature = sign(device, Domain::Location, Some(&self.overlay), &door, &envelope);
        pb::SignedEntry {
            envelope: envelope.into(),
            certificate: certificate.into(),
            signature: Bytes::copy_from_slice(&signature),
        }
        .encode_to_vec()
    }

    pub fn owner(&self, change: impl FnOnce(&mut pb::OwnerStatement)) -> Vec<u8> {
        let mut owner = pb::OwnerStatement {
            idhash: self.idhash(),
            rotation: self.rotation(),
            min_epoch: 1,
            revoked_serials: Vec::new(),
            sequence: NOW_MILLIS,
            valid_until: NOW + 90 * 86_400,
        };
        change(&mut owner);
        let payload = owner.encode_to_vec();
        let signature = sign(&self.root(), Domain::Owner, Some(&self.overlay), &NONE, &payload);
        signed(payload, signature)
    }

    pub fn revocation(&self, change: impl FnOnce(&mut pb::Revocation)) -> Vec<u8> {
        let mut revocation =
            pb::Revocation { idhash: self.idhash(), issued_at: NOW, recovery_key: public(&self.recovery()) };
        change(&mut revocation);
        let payload = revocation.encode_to_vec();
        let signature = sign(&self.recovery(), Domain::Revocation, None, &NONE, &payload);
        signed(payload, signature)
    }

    pub fn bundle(&self, mut entries: Vec<Vec<u8>>, owner: Option<Vec<u8>>, revocation: Option<Vec<u8>>) -> Vec<u8> {
        entries.sort_by_key(|entry| device_key(entry));
        self.bundle_as_is(entries, owner, revocation)
    }

    pub fn bundle_as_is(&self, entries: Vec<Vec<u8>>, owner: Option<Vec<u8>>, revocation: Option<Vec<u8>>) -> Vec<u8> {
        pb::Bundle {
            inception: Bytes::copy_from_slice(&self.inception),
            rotations: self.rotations.iter().map(|r| Bytes::copy_from_slice(r)).collect(),
            owner: owner.unwrap_or_default().into(),
            revocation: revocation.unwrap_or_default().into(),
            entries: entries.into_iter().map(Bytes::from).collect(),
        }
        .encode_to_vec()
    }

    /// A bundle of one ordinary entry, changed.
    pub fn one(&self, change: impl FnOnce(&mut pb::Envelope, &mut pb::Body)) -> Vec<u8> {
        self.bundle(vec![self.entry(&device(101), change)], None, None)
    }

    /// A bundle of one ordinary entry under a changed certificate.
    pub fn one_under(&self, change: impl FnOnce(&mut pb::DeviceCertificate)) -> Vec<u8> {
        let certificate = self.certificate(&device(101), change);
        self.bundle(vec![self.entry_under(certificate, &device(101), |_, _| {})], None, None)
    }
}

pub fn commitment(key: &SigningKey) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::new().chain_update(b"peerline-recovery-pk-1").chain_update(key.verifying_key().as_bytes()).finalize().into()
}

/// The slot of an entry.
pub fn device_key(entry: &[u8]) -> Bytes {
    let key = || -> Result<Bytes, prost::DecodeError> {
        let entry = pb::SignedEntry::decode(entry)?;
        let certificate = pb::Signed::decode(entry.certificate)?;
        Ok(pb::DeviceCertificate::decode(certificate.payload)?.device_key)
    };
    key().unwrap_or_default()
}
