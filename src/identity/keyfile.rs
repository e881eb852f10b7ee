//! Keys on disk: each in a file of its own, 0600, fsynced and atomically renamed. A file that others can read is refused.

use super::{NodeSecret, UserIdentity, random};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// What can be wrong with a key on disk or on paper.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is readable by others (mode {mode:o}): run `chmod 600 {path}`")]
    Mode { path: String, mode: u32 },
    #[error("{path} is damaged: {what}")]
    Damaged { path: String, what: &'static str },
    #[error("{path} is protected by a passphrase")]
    PassphraseNeeded { path: String },
    #[error("wrong passphrase for {path}")]
    WrongPassphrase { path: String },
    #[error("these are not 24 recovery words: {0}")]
    Words(String),
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> KeyFileError + '_ {
    move |source| KeyFileError::Io { path: path.display().to_string(), source }
}

fn damaged(path: &Path, what: &'static str) -> KeyFileError {
    KeyFileError::Damaged { path: path.display().to_string(), what }
}

/// No key file is larger, bytes.
const LARGEST: u64 = 16 * 1024;

/// Writes a secret so that after a crash either the old or the new file is there, whole.
fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.new-{}", HEXLOWER.encode(&random::<6>())));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let found = fs::metadata(path).map_err(io_error(path))?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.display().to_string(), mode });
    }
    if found.len() > LARGEST {
        return Err(damaged(path, "too large"));
    }
    fs::read(path).map(Zeroizing::new).map_err(io_error(path))
}

const NODE_MAGIC: &[u8] = b"peerline-node-1\n";

pub(super) fn node_key(dir: &Path) -> Result<NodeSecret, KeyFileError> {
    let path = dir.join("node.key");
    // Only a file that is certainly not there is made: a key is never replaced.
    if !path.try_exists().map_err(io_error(&path))? {
        let secret = NodeSecret::generate();
        let content = Zeroizing::new([NODE_MAGIC, &secret.to_bytes()].concat());
        write_secret(&path, &content).map_err(io_error(&path))?;
        return Ok(secret);
    }
    let content = read_secret(&path)?;
    let key = content.strip_prefix(NODE_MAGIC).ok_or_else(|| damaged(&path, "not a node key"))?;
    Ok(NodeSecret::from_bytes(key.try_into().map_err(|_| damaged(&path, "not 32 bytes"))?))
}

const IDENTITY_FORMAT: &str = "peerline-identity-1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: String,
    inception: String,
    rotations: Vec<String>,
    root: RootKey,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum RootKey {
    /// Protected by the file's mode only.
    Plain(String),
    /// Argon2id over the passphrase, XChaCha20-Poly1305 over the key; the inception is authenticated with it.
    Sealed { memory_kib: u32, passes: u32, lanes: u32, salt: String, nonce: String, sealed: String },
}

/// RFC 9106 §4, second recommended option: 64 MiB, 3 passes, 4 lanes.
const ARGON2: (u32, u32, u32) = (64 * 1024, 3, 4);
/// A file may not ask for more: it would be a way to make the program eat memory.
const ARGON2_MOST: (u32, u32, u32) = (1024 * 1024, 16, 16);

fn sealing_key(passphrase: &str, salt: &[u8], cost: (u32, u32, u32)) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let params = Params::new(cost.0, cost.1, cost.2, Some(32)).ok()?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .ok()?;
    Some(key)
}

pub(super) fn save_identity(user: &UserIdentity, path: &Path, passphrase: Option<&str>) -> Result<(), KeyFileError> {
    let root = match passphrase {
        None => RootKey::Plain(HEXLOWER.encode(user.root_bytes())),
        Some(passphrase) => {
            let (salt, nonce) = (random::<16>(), random::<24>());
            let key = sealing_key(passphrase, &salt, ARGON2).ok_or_else(|| damaged(path, "cannot derive a key"))?;
            let payload = Payload { msg: user.root_bytes(), aad: &user.inception };
            let sealed = XChaCha20Poly1305::new((&*key).into())
                .encrypt(&XNonce::from(nonce), payload)
                .map_err(|_| damaged(path, "cannot seal the key"))?;
            RootKey::Sealed {
                memory_kib: ARGON2.0,
                passes: ARGON2.1,
                lanes: ARGON2.2,
                salt: HEXLOWER.encode(&salt),
                nonce: HEXLOWER.encode(&nonce),
                sealed: HEXLOWER.encode(&sealed),
            }
        }
    };
    let file = IdentityFile {
        format: IDENTITY_FORMAT.into(),
        inception: HEXLOWER.encode(&user.inception),
        rotations: user.rotations.iter().map(|r| HEXLOWER.encode(r)).collect(),
        root,
    };
    let content = Zeroizing::new(serde_json::to_vec_pretty(&file).map_err(|_| damaged(path, "cannot be written"))?);
    write_secret(path, &content).map_err(io_error(path))
}

pub(super) fn load_identity(path: &Path, passphrase: Option<&str>) -> Result<UserIdentity, KeyFileError> {
    let content = read_secret(path)?;
    let file: IdentityFile = serde_json::from_slice(&content).map_err(|_| damaged(path, "not an identity file"))?;
    if file.format != IDENTITY_FORMAT {
        return Err(damaged(path, "made by a newer Peerline"));
    }
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| damaged(path, "not hexadecimal"));
    let inception: [u8; 65] =
        hex(&file.inception)?.try_into().map_err(|_| damaged(path, "the inception is not 65 bytes"))?;
    let rotations = file.rotations.iter().map(|r| hex(r)).collect::<Result<Vec<_>, _>>()?;
    let root = match &file.root {
        RootKey::Plain(key) => Zeroizing::new(hex(key)?),
        RootKey::Sealed { memory_kib, passes, lanes, salt, nonce, sealed } => {
            let named = || path.display().to_string();
            let passphrase = passphrase.ok_or_else(|| KeyFileError::PassphraseNeeded { path: named() })?;
            if *memory_kib > ARGON2_MOST.0 || *passes > ARGON2_MOST.1 || *lanes > ARGON2_MOST.2 {
                return Err(damaged(path, "asks for too much memory"));
            }
            let key = sealing_key(passphrase, &hex(salt)?, (*memory_kib, *passes, *lanes))
                .ok_or_else(|| damaged(path, "impossible key derivation"))?;
            let nonce: [u8; 24] = hex(nonce)?.try_into().map_err(|_| damaged(path, "the nonce is not 24 bytes"))?;
            let opened = XChaCha20Poly1305::new((&*key).into())
                .decrypt(&XNonce::from(nonce), Payload { msg: &hex(sealed)?, aad: &inception })
                .map_err(|_| KeyFileError::WrongPassphrase { path: named() })?;
            Zeroizing::new(opened)
        }
    };
    let root: [u8; 32] = root[..].try_into().map_err(|_| damaged(path, "the root key is not 32 bytes"))?;
    let user = UserIdentity::from_parts(inception, rotations, root);
    let current = user.current_root();
    let fits = current.is_some_and(|key| key == user.root_key().verifying_key().to_bytes());
    if fits { Ok(user) } else { Err(damaged(path, "the root key does not belong to the inception")) }
}

#[cfg(test)]
mod tests {
    use super::super::Seed;
    use super::*;

    #[test]
    fn words_bring_the_same_number_back() {
        let seed = Seed::generate();
        let again = Seed::from_words(&seed.words().to_uppercase()).unwrap();
        assert_eq!(again.identity().id, seed.identity().id);
        assert_eq!(seed.words().split(' ').count(), 24);
        assert!(Seed::from_words("abandon abandon").is_err());
    }

    #[test]
    fn an_identity_survives_its_file_with_and_without_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("me.id");
        let seed = Seed::generate();
        let user = seed.rotate(&seed.identity());
        user.save(&path, None).unwrap();
        assert_eq!(UserIdentity::load(&path, None).unwrap().root_bytes(), user.root_bytes());
        user.save(&path, Some("horse")).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains(&HEXLOWER.encode(user.root_bytes())));
        assert!(matches!(UserIdentity::load(&path, None), Err(KeyFileError::PassphraseNeeded { .. })));
        assert!(matches!(UserIdentity::load(&path, Some("cow")), Err(KeyFileError::WrongPassphrase { .. })));
        let opened = UserIdentity::load(&path, Some("horse")).unwrap();
        assert_eq!((opened.id, &opened.rotations), (user.id, &user.rotations));
        assert_eq!(opened.root_bytes(), user.root_bytes());
    }

    #[test]
    fn refuses_keys_that_others_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeSecret::load_or_create(dir.path()).unwrap();
        assert_eq!(NodeSecret::load_or_create(dir.path()).unwrap().public(), first.public());
        let path = dir.path().join("node.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(NodeSecret::load_or_create(dir.path()), Err(KeyFileError::Mode { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"rubbish").unwrap();
        assert!(matches!(NodeSecret::load_or_create(dir.path()), Err(KeyFileError::Damaged { .. })));
    }
}
