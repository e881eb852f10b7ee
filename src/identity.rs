//! Keys: the seed and what grows from it, the inception statement, device certificates. The files they live in are in
//! `keyfile`.

mod keyfile;

pub use keyfile::KeyFileError;

use crate::clock::UnixMillis;
use crate::uri::{IdHash, VER_ALG};
use crate::wire::signature::NONE;
use crate::wire::{Domain, OverlayId, pb, sign};
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Rights in a device certificate.
pub mod rights {
    pub const PUBLISH: u32 = 1;
    pub const CALL: u32 = 2;
    pub const TOMBSTONE: u32 = 4;
}

/// Life of a certificate that this version makes, seconds.
const CERTIFICATE_DAYS: u64 = 30;

/// A node's Ed25519 public key. A device *is* a node, so this is also the key of a slot and what a libp2p peer id is
/// made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub [u8; 32]);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:02x}{:02x}{:02x}{:02x})", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// A node's secret key. Signs entries and hellos; libp2p is built on it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NodeSecret([u8; 32]);

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSecret(..)")
    }
}

impl NodeSecret {
    /// A fresh key from the operating system's randomness.
    pub fn generate() -> Self {
        Self(random())
    }

    /// From a raw 32-byte Ed25519 seed (RFC 8032).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn public(&self) -> NodeKey {
        NodeKey(self.signing_key().verifying_key().to_bytes())
    }

    /// The raw 32-byte Ed25519 seed, for building the libp2p keypair.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Loads `node.key` from `dir`, or creates it (0600, fsynced, atomically renamed).
    ///
    /// # Errors
    /// When the file cannot be read or made, is readable by others, or is not a key.
    pub fn load_or_create(dir: &Path) -> Result<Self, KeyFileError> {
        keyfile::node_key(dir)
    }

    pub(crate) fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.0)
    }
}

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// 32 bytes from which the root and recovery keys of every rotation are derived. Paper, not disk.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    pub fn generate() -> Self {
        Self(random())
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 24 BIP-39 words.
    pub fn words(&self) -> String {
        bip39::Mnemonic::from_entropy(&self.0).expect("32 bytes are 24 words").to_string()
    }

    /// Reads the 24 words, in any case and spacing.
    ///
    /// # Errors
    /// [`KeyFileError::Words`] when a word is unknown, missing, or the checksum is wrong.
    pub fn from_words(words: &str) -> Result<Self, KeyFileError> {
        let words = words.to_lowercase();
        let mnemonic = bip39::Mnemonic::parse_in(bip39::Language::English, words)
            .map_err(|e| KeyFileError::Words(e.to_string()))?;
        let entropy: [u8; 32] =
            mnemonic.to_entropy().try_into().map_err(|_| KeyFileError::Words("24 words are needed".into()))?;
        Ok(Self(entropy))
    }

    fn derive(&self, info: &[u8], n: u32) -> SigningKey {
        let info = [info, &n.to_be_bytes()].concat();
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(None, &self.0).expand(&info, &mut key).expect("32 bytes are within HKDF's bound");
        let signing = SigningKey::from_bytes(&key);
        key.zeroize();
        signing
    }

    /// `HKDF-SHA256(seed, info "peerline-root-1" || u32 n)`.
    pub fn root_key(&self, n: u32) -> SigningKey {
        self.derive(b"peerline-root-1", n)
    }

    /// `HKDF-SHA256(seed, info "peerline-recovery-1" || u32 n)`.
    pub fn recovery_key(&self, n: u32) -> SigningKey {
        self.derive(b"peerline-recovery-1", n)
    }

    fn commitment(&self, n: u32) -> [u8; 32] {
        recovery_commitment(self.recovery_key(n).verifying_key().as_bytes())
    }

    /// The identity at rotation 0: what `id import` brings back on an empty machine.
    pub fn identity(&self) -> UserIdentity {
        let mut inception = [0; 65];
        inception[0] = VER_ALG;
        inception[1..33].copy_from_slice(self.root_key(0).verifying_key().as_bytes());
        inception[33..].copy_from_slice(&self.commitment(0));
        UserIdentity {
            inception,
            id: IdHash::of_inception(&inception),
            rotations: Vec::new(),
            root: self.root_key(0).to_bytes(),
        }
    }

    /// The identity after `rotations` (as found in the user's bundle, oldest first): what `id import` brings back when the
    /// root key was replaced since birth. The number is the same.
    pub fn identity_after(&self, rotations: Vec<Vec<u8>>) -> UserIdentity {
        let mut user = self.identity();
        user.root = self.root_key(rotations.len() as u32).to_bytes();
        user.rotations = rotations;
        user
    }

    /// The next rotation: root and recovery keys n+1 replace n, and the recovery key that n committed to is revealed.
    pub fn rotate(&self, user: &UserIdentity) -> UserIdentity {
        let n = user.rotations.len() as u32 + 1;
        let recovery = self.recovery_key(n - 1);
        let payload = pb::Rotation {
            idhash: Bytes::copy_from_slice(&user.id.0),
            n,
            new_root_key: Bytes::copy_from_slice(self.root_key(n).verifying_key().as_bytes()),
            new_recovery_hash: Bytes::copy_from_slice(&self.commitment(n)),
            recovery_key: Bytes::copy_from_slice(recovery.verifying_key().as_bytes()),
        }
        .encode_to_vec();
        let signature = sign(&recovery, Domain::Rotation, None, &NONE, &payload);
        let mut next = user.clone();
        next.rotations.push(signed(payload, signature));
        next.root = self.root_key(n).to_bytes();
        next
    }
}

/// What a statement commits to before the key is needed: `H("peerline-recovery-pk-1" || recovery.pk)`.
pub(crate) fn recovery_commitment(key: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(b"peerline-recovery-pk-1").chain_update(key).finalize().into()
}

fn signed(payload: Vec<u8>, signature: [u8; 64]) -> Vec<u8> {
    pb::Signed { payload: payload.into(), signature: Bytes::copy_from_slice(&signature) }.encode_to_vec()
}

/// A user as the first device holds it: the public header and the current root secret.
#[derive(Clone, ZeroizeOnDrop)]
pub struct UserIdentity {
    /// 65 bytes: ver_alg, root_0 public key, recovery commitment.
    #[zeroize(skip)]
    pub inception: [u8; 65],
    #[zeroize(skip)]
    pub id: IdHash,
    /// Encoded `Signed(Rotation)`s, oldest first.
    #[zeroize(skip)]
    pub rotations: Vec<Vec<u8>>,
    root: [u8; 32],
}

impl fmt::Debug for UserIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserIdentity({:?}, rotation {})", self.id, self.rotations.len())
    }
}

/// A device certificate as it travels (`Signed(DeviceCertificate)` bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateBytes(pub Vec<u8>);

impl CertificateBytes {
    fn fields(&self) -> Option<pb::DeviceCertificate> {
        let signed = pb::Signed::decode(&self.0[..]).ok()?;
        pb::DeviceCertificate::decode(signed.payload).ok()
    }

    /// When it ends; `None` when these bytes are no certificate.
    pub fn not_after(&self) -> Option<UnixMillis> {
        self.fields().map(|c| UnixMillis::from_seconds(c.not_after))
    }

    /// The epoch it belongs to.
    pub fn epoch(&self) -> Option<u32> {
        self.fields().map(|c| c.epoch)
    }

    /// The serial number by which the owner may revoke it.
    pub fn serial(&self) -> Option<u64> {
        self.fields().map(|c| c.serial)
    }

    /// The device it certifies.
    pub fn device(&self) -> Option<NodeKey> {
        self.fields().and_then(|c| c.device_key[..].try_into().ok()).map(NodeKey)
    }
}

/// What a certificate grants. The default is what a person's own device gets.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub epoch: u32,
    pub serial: u64,
    pub rights: u32,
    /// Seconds; at most 90 days.
    pub life: u64,
}

impl Grant {
    /// PUBLISH, CALL and TOMBSTONE for 30 days, with a random serial.
    pub fn device(epoch: u32) -> Self {
        let serial = u64::from_be_bytes(random());
        let rights = rights::PUBLISH | rights::CALL | rights::TOMBSTONE;
        Self { epoch, serial, rights, life: CERTIFICATE_DAYS * 86_400 }
    }
}

impl UserIdentity {
    pub(crate) fn from_parts(inception: [u8; 65], rotations: Vec<Vec<u8>>, root: [u8; 32]) -> Self {
        Self { inception, id: IdHash::of_inception(&inception), rotations, root }
    }

    pub(crate) fn root_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.root)
    }

    /// The root public key that the header says is current.
    fn current_root(&self) -> Option<[u8; 32]> {
        let Some(last) = self.rotations.last() else { return self.inception[1..33].try_into().ok() };
        let signed = pb::Signed::decode(&last[..]).ok()?;
        pb::Rotation::decode(signed.payload).ok()?.new_root_key[..].try_into().ok()
    }

    pub(crate) fn root_bytes(&self) -> &[u8; 32] {
        &self.root
    }

    /// Certifies `device` with the default rights (PUBLISH | CALL | TOMBSTONE) for 30 days.
    pub fn certify(&self, device: NodeKey, overlay: &OverlayId, epoch: u32, now: UnixMillis) -> CertificateBytes {
        self.certify_with(device, overlay, Grant::device(epoch), now)
    }

    /// Certifies `device` with a grant of one's own. `not_before` lies an hour back, for clocks that are behind.
    pub fn certify_with(
        &self,
        device: NodeKey,
        overlay: &OverlayId,
        grant: Grant,
        now: UnixMillis,
    ) -> CertificateBytes {
        let payload = pb::DeviceCertificate {
            idhash: Bytes::copy_from_slice(&self.id.0),
            rotation: self.rotations.len() as u32,
            epoch: grant.epoch,
            serial: grant.serial,
            device_key: Bytes::copy_from_slice(&device.0),
            rights: grant.rights,
            not_before: now.seconds().saturating_sub(3_600),
            not_after: now.seconds() + grant.life,
            caveats: None,
        }
        .encode_to_vec();
        let signature = sign(&self.root_key(), Domain::Device, Some(overlay), &NONE, &payload);
        CertificateBytes(signed(payload, signature))
    }

    /// Writes the identity file `path` (0600, fsynced, atomically renamed), the root key encrypted when a passphrase is
    /// given (Argon2id, XChaCha20-Poly1305).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, passphrase: Option<&str>) -> Result<(), KeyFileError> {
        keyfile::save_identity(self, path, passphrase)
    }

    /// Reads an identity file.
    ///
    /// # Errors
    /// When it cannot be read, is readable by others, is damaged, or the passphrase is missing or wrong.
    pub fn load(path: &Path, passphrase: Option<&str>) -> Result<Self, KeyFileError> {
        keyfile::load_identity(path, passphrase)
    }
}
