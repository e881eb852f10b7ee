//! The users hosted on this node: identity files (`users/<number>.id`, the root key) and device files
//! (`users/<number>.device`, what this node may do for them). With a device file whose certificate lasts, the root key
//! is not touched, so a passphrase is asked for only when a certificate is made.

use super::dir::{DataDir, DirError};
use crate::clock::UnixMillis;
use crate::identity::{CertificateBytes, KeyFileError, NodeKey, UserIdentity};
use crate::locator::HostedUser;
use crate::record::UserHeader;
use crate::uri::IdHash;
use crate::wire::OverlayId;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Renewed while so much is left of a certificate's 30 days: a node that is off for a week over Christmas still works.
const RENEW_BEFORE: Duration = Duration::from_secs(10 * 86_400);
/// From here on the user is told (FORMATS, "Identity").
const TELL_BEFORE: Duration = Duration::from_secs(7 * 86_400);
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(transparent)]
    Dir(#[from] DirError),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error("{path}: {what}")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("the identity of {0} is not on this machine: bring it with `peerline id import`")]
    Absent(IdHash),
}

/// A user that this node may speak for, and until when.
#[derive(Clone)]
pub struct Certified {
    pub user: HostedUser,
    pub not_after: UnixMillis,
    /// Something the user should know, in plain words.
    pub notice: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceFile {
    overlay: String,
    device: String,
    inception: String,
    rotations: Vec<String>,
    epoch: u32,
    certificate: String,
    /// Unix seconds; for people, the certificate itself counts.
    not_after: u64,
}

/// All users with an identity or a device file here, in order of their numbers.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(dir: &DataDir) -> Result<Vec<IdHash>, UserError> {
    let path = dir.users();
    let entries = std::fs::read_dir(&path).map_err(|source| DirError::File { path: path.clone(), source })?;
    let mut users: Vec<IdHash> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "id" || e == "device"))
        .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
        .collect();
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

/// Where a user's identity (root key) is or would be.
pub fn identity_path(dir: &DataDir, user: &IdHash) -> PathBuf {
    dir.users().join(format!("{user}.id"))
}

fn device_path(dir: &DataDir, user: &IdHash) -> PathBuf {
    dir.users().join(format!("{user}.device"))
}

/// Keeps a new identity here.
///
/// # Errors
/// When it cannot be written.
pub fn keep(dir: &DataDir, identity: &UserIdentity, passphrase: Option<&str>) -> Result<(), UserError> {
    Ok(identity.save(&identity_path(dir, &identity.id), passphrase)?)
}

/// A certificate for `device` to speak for `user`: the kept one while it lasts, else a new one.
///
/// # Errors
/// When a new one is needed and the root key cannot be read (no file, passphrase missing or wrong).
pub fn certified(
    dir: &DataDir,
    user: &IdHash,
    overlay: &OverlayId,
    device: NodeKey,
    passphrase: Option<&str>,
    now: UnixMillis,
) -> Result<Certified, UserError> {
    let kept = read(dir, user, overlay, &device)?;
    let left = |c: &Certified| Duration::from_millis(c.not_after.0.saturating_sub(now.0));
    if let Some(kept) = kept.as_ref().filter(|c| left(c) > RENEW_BEFORE) {
        return Ok(kept.clone());
    }
    match (renew(dir, user, overlay, device, passphrase, now), kept) {
        (Ok(fresh), _) => Ok(fresh),
        // The root key is locked or elsewhere, but the old certificate still works for a while.
        (Err(_), Some(mut kept)) if !left(&kept).is_zero() => {
            let days = left(&kept).as_secs() / 86_400;
            if left(&kept) < TELL_BEFORE {
                kept.notice = Some(format!(
                    "this device may speak for its user for {days} more days: restart with the passphrase to renew"
                ));
            }
            Ok(kept)
        }
        (Err(e), _) => Err(e),
    }
}

fn renew(
    dir: &DataDir,
    user: &IdHash,
    overlay: &OverlayId,
    device: NodeKey,
    passphrase: Option<&str>,
    now: UnixMillis,
) -> Result<Certified, UserError> {
    let path = identity_path(dir, user);
    if !path.exists() {
        return Err(UserError::Absent(*user));
    }
    let identity = UserIdentity::load(&path, passphrase)?;
    if identity.id != *user {
        return Err(UserError::Damaged { path, what: "it holds another user's identity" });
    }
    let epoch = 0;
    let certificate = identity.certify(device, overlay, epoch, now);
    let header = UserHeader::from(&identity);
    let Some(not_after) = certificate.not_after() else {
        return Err(UserError::Damaged { path, what: "no certificate could be made from it" });
    };
    let file = DeviceFile {
        overlay: HEXLOWER.encode(&overlay.0),
        device: HEXLOWER.encode(&device.0),
        inception: HEXLOWER.encode(&header.inception),
        rotations: header.rotations.iter().map(|r| HEXLOWER.encode(r)).collect(),
        epoch,
        certificate: HEXLOWER.encode(&certificate.0),
        not_after: not_after.seconds(),
    };
    let text = toml::to_string(&file).map_err(|_| UserError::Damaged { path, what: "it cannot be written" })?;
    dir.write_private(&device_path(dir, user), &text)?;
    Ok(Certified { user: HostedUser { id: *user, header, certificate, epoch }, not_after, notice: None })
}

/// The kept certificate, if it is for this overlay and this device.
fn read(dir: &DataDir, user: &IdHash, overlay: &OverlayId, device: &NodeKey) -> Result<Option<Certified>, UserError> {
    let path = device_path(dir, user);
    let Some(text) = dir.read_private(&path)? else { return Ok(None) };
    let damaged = |what| UserError::Damaged { path: path.clone(), what };
    let file: DeviceFile =
        toml::from_str(&text).map_err(|_| damaged("not a device file; move it away to make a new one"))?;
    if file.overlay != HEXLOWER.encode(&overlay.0) || file.device != HEXLOWER.encode(&device.0) {
        return Ok(None);
    }
    let bytes = |hex: &str| HEXLOWER.decode(hex.as_bytes()).map_err(|_| damaged("not hexadecimal"));
    let inception =
        bytes(&file.inception)?.try_into().map_err(|_| damaged("the inception statement is not 65 bytes"))?;
    let rotations = file.rotations.iter().map(|r| bytes(r)).collect::<Result<_, _>>()?;
    let certificate = CertificateBytes(bytes(&file.certificate)?);
    let not_after = certificate.not_after().ok_or_else(|| damaged("the certificate cannot be read"))?;
    Ok(Some(Certified {
        user: HostedUser { id: *user, header: UserHeader { inception, rotations }, certificate, epoch: file.epoch },
        not_after,
        notice: None,
    }))
}

/// Public header and identity state of one user, for `id show`.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub number: String,
    pub grouped: String,
    /// The root key is on this machine.
    pub root_here: bool,
    /// Unix seconds, when this node has a certificate.
    pub certificate_until: Option<u64>,
}

/// # Errors
/// When a file cannot be read.
pub fn show(dir: &DataDir, user: &IdHash) -> Result<Shown, UserError> {
    let text = dir.read_private(&device_path(dir, user))?;
    let until = text.and_then(|t| toml::from_str::<DeviceFile>(&t).ok()).map(|file| file.not_after);
    Ok(Shown {
        number: user.to_string(),
        grouped: user.grouped(),
        root_here: identity_path(dir, user).exists(),
        certificate_until: until,
    })
}

#[cfg(test)]
mod tests;
