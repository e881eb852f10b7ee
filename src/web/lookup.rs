//! "Where is this user?" answered for people: the verified binding, who held it, how long it took, what was wrong.

use crate::clock::UnixMillis;
use crate::directory::{DialError, Directory, Route};
use crate::overlay::{LookupEvent, LookupReport, Overlay, address_text, peer_id_text};
use crate::record::VerifiedBinding;
use crate::uri::{IdHash, UserUri};
use serde::Serialize;
use std::time::Duration;

/// A lookup that takes longer has failed for anybody who waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

/// `GET /v1/lookup`
#[derive(Clone, Debug, Serialize)]
pub struct LookupAnswer {
    pub who: String,
    pub uri: String,
    /// Somebody holds a valid binding that may be called now.
    pub found: bool,
    /// At least one other node could be asked: without, "not found" says nothing.
    pub asked_anybody: bool,
    pub devices: Vec<FoundDevice>,
    pub report: LookupReport,
}

/// One device that may answer for the user.
#[derive(Clone, Debug, Serialize)]
pub struct FoundDevice {
    /// Its peer id.
    pub node: String,
    pub sequence: u64,
    pub priority: u32,
    /// Multiaddrs.
    pub addresses: Vec<String>,
    pub expires_in_s: u64,
    pub dnd: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupTrouble {
    #[error(transparent)]
    Dialled(#[from] DialError),
    #[error("that is a service of this node, not a user")]
    NotAUser,
}

/// # Errors
/// When `who` is nobody's number, contact or extension.
pub async fn look_up(overlay: &Overlay, directory: &Directory, who: &str) -> Result<LookupAnswer, LookupTrouble> {
    let id = user_of(directory, who)?;
    let mut progress = overlay.lookup(id);
    let mut binding = None;
    let mut report = LookupReport::default();
    let read = async {
        while let Some(event) = progress.recv().await {
            match event {
                LookupEvent::Found(bundle) => binding = Some(bundle.binding(UnixMillis::now())),
                LookupEvent::Done(done) => {
                    report = done;
                    break;
                }
            }
        }
    };
    // Past the deadline what was found so far is the answer.
    let _ = tokio::time::timeout(DEADLINE, read).await;
    let devices = binding.map(|b| devices(&b, UnixMillis::now())).unwrap_or_default();
    let uri = UserUri { id, overlay: directory.overlay_name.clone() }.to_string();
    let found = !devices.is_empty();
    Ok(LookupAnswer { who: who.to_owned(), uri, found, asked_anybody: report.asked > 0, devices, report })
}

fn user_of(directory: &Directory, who: &str) -> Result<IdHash, LookupTrouble> {
    match directory.resolve(who)? {
        Route::User(id) => Ok(id),
        Route::Account(name) => directory
            .accounts
            .get(&name)
            .and_then(|account| account.user.parse().ok())
            .ok_or(LookupTrouble::Dialled(DialError::Unknown)),
        Route::Echo => Err(LookupTrouble::NotAUser),
    }
}

fn devices(binding: &VerifiedBinding, now: UnixMillis) -> Vec<FoundDevice> {
    binding
        .devices
        .iter()
        .map(|device| FoundDevice {
            node: peer_id_text(&device.node),
            sequence: device.sequence,
            priority: device.priority,
            addresses: device.addresses.iter().map(|a| address_text(a)).collect(),
            expires_in_s: device.expires_at.0.saturating_sub(now.0) / 1000,
            dnd: device.dnd,
        })
        .collect()
}
