//! `run.json`: where the node that runs on a data directory can be reached. Written when it is up, removed on the way
//! out; a stale one (crash) names a process that no longer holds the lock, so readers look at the lock first.

use super::dir::{DataDir, DirError};
use crate::config::Role;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

const NAME: &str = "run.json";

/// No secrets in here: passwords are in `phones.toml`, the API token in `api.token`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    pub pid: u32,
    pub version: String,
    pub role: Role,
    /// The overlay's name.
    pub overlay: String,
    pub peer_id: String,
    /// Multiaddrs with `/p2p`: what another node takes as `--bootstrap`.
    pub listen: Vec<String>,
    pub sip_udp: Option<SocketAddr>,
    pub sip_tcp: Option<SocketAddr>,
    pub api: Option<SocketAddr>,
    pub users: Vec<RunUser>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunUser {
    pub number: String,
    pub uri: String,
    pub accounts: Vec<RunAccount>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunAccount {
    pub name: String,
    pub extension: Option<String>,
}

impl RunInfo {
    /// What runs on `dir` now: `None` when nothing holds its lock or it is not up yet.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn of_running(dir: &DataDir) -> Result<Option<Self>, DirError> {
        match dir.lock() {
            Ok(_free) => Ok(None),
            Err(DirError::Taken { .. }) => {
                Ok(dir.read_private(&dir.file(NAME))?.and_then(|text| serde_json::from_str(&text).ok()))
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn write(&self, dir: &DataDir) -> Result<(), DirError> {
        let text = serde_json::to_string(self).unwrap_or_default();
        dir.write_private(&dir.file(NAME), &text)
    }

    pub(super) fn remove(dir: &DataDir) {
        let _ = std::fs::remove_file(dir.file(NAME));
    }
}
