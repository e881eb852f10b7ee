//! One announcement: signs the entry, judges it as any stranger would, and makes it what hellos show.

use super::machine::{Announcement, Shown};
use super::{BindError, HostedUser, LocatorConfig};
use crate::overlay::PublishError;
use crate::record::{self, EntryDraft, Judge, RejectReason, ValidBundle};

/// Most addresses of an entry, and bytes of one (FORMATS, Body).
const MOST_ADDRESSES: usize = 8;
const MOST_ADDRESS_BYTES: usize = 128;

/// What goes out: alone for hellos, merged with what other devices of the user said for the overlay.
pub(super) struct Signed {
    pub own: ValidBundle,
    pub merged: ValidBundle,
}

/// # Errors
/// What our own validator says against it: better here than at every peer.
pub(super) fn sign(
    config: &LocatorConfig,
    user: &HostedUser,
    announcement: &Announcement,
    mut addresses: Vec<Vec<u8>>,
    held: Option<&ValidBundle>,
) -> Result<Signed, RejectReason> {
    addresses.retain(|address| address.len() <= MOST_ADDRESS_BYTES);
    addresses.truncate(MOST_ADDRESSES);
    let tombstone = announcement.shown == Shown::Tombstone;
    let draft = EntryDraft {
        epoch: user.epoch,
        sequence: announcement.sequence,
        issued_at: announcement.issued_at,
        expires_at: announcement.expires_at,
        tombstone,
        priority: 0,
        addresses: if tombstone { Vec::new() } else { addresses },
    };
    let bytes = record::sign_bundle(&user.header, &user.certificate, &config.device, &config.overlay, &draft);
    let judge = Judge { overlay: config.overlay, scope: config.scope, now: announcement.issued_at };
    let [key, ..] = record::replica_keys(&config.overlay, &user.id);
    let own = record::validate(&bytes, &key, &judge, None)?;
    // What is held may have become too large or too old to go with it; our own entry goes out in any case.
    let merged = match held {
        Some(held) => record::validate(&held.merge(&own).encode(), &key, &judge, None).unwrap_or_else(|_| own.clone()),
        None => own.clone(),
    };
    Ok(Signed { own, merged })
}

pub(super) fn bind_error(reason: RejectReason) -> BindError {
    match reason {
        RejectReason::BadCertificate | RejectReason::NotCertified | RejectReason::Revoked | RejectReason::Expired => {
            BindError::CertificateExpired
        }
        other => BindError::Store(format!("the entry is not valid: {other}")),
    }
}

/// What the status says of a publication that failed.
pub(super) fn trouble(error: &PublishError) -> String {
    match error {
        PublishError::Alone => "waiting for other nodes".into(),
        PublishError::Invalid(_) | PublishError::TooFew { .. } | PublishError::Stopped => error.to_string(),
    }
}
