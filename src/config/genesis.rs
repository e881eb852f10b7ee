//! Which overlay: the built-in one, one from a file, or a private one made of a word (tests, demo).

use super::OverlaySettings;
use crate::wire::{AddressScope, BUILT_IN_NAME, Genesis, OverlayId, is_overlay_name};
use std::path::PathBuf;

/// An overlay's identity, worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenOverlay {
    pub id: OverlayId,
    pub name: String,
    pub scope: AddressScope,
}

/// Why an overlay cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum OverlayChoiceError {
    #[error("no overlay is called `{0}`: built in is peerline.alt; otherwise give the path of an overlay file")]
    Unknown(String),
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: {what}")]
    Bad { path: PathBuf, what: String },
}

/// What an overlay file holds: the genesis, FORMATS "Overlay".
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct OverlayFile {
    name: String,
    /// `global` or `any`.
    address_scope: String,
    /// 32 hex digits.
    nonce: String,
}

impl ChosenOverlay {
    /// # Errors
    /// When neither built in nor readable as a file.
    pub fn choose(settings: &OverlaySettings) -> Result<Self, OverlayChoiceError> {
        if let Some(seed) = &settings.test_seed {
            return Ok(Self::private(seed));
        }
        if settings.join == BUILT_IN_NAME {
            return Ok(Self::found(Genesis::built_in()));
        }
        let path = PathBuf::from(&settings.join);
        if !settings.join.contains(['/', '.']) || (!path.exists() && settings.join.ends_with(".alt")) {
            return Err(OverlayChoiceError::Unknown(settings.join.clone()));
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|source| OverlayChoiceError::Unreadable { path: path.clone(), source })?;
        Self::from_file(&text).map_err(|what| OverlayChoiceError::Bad { path, what })
    }

    /// `test.alt`, with an id made of `seed` and addresses of any kind allowed: never reaches the real overlay.
    pub fn private(seed: &str) -> Self {
        Self::found(Genesis::private(seed.as_bytes()))
    }

    fn from_file(text: &str) -> Result<Self, String> {
        let file: OverlayFile = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        if !is_overlay_name(&file.name) {
            return Err("`name`: lower-case letters, digits, dots and hyphens, at most 64".to_owned());
        }
        let scope = match file.address_scope.as_str() {
            "global" => AddressScope::Global,
            "any" => AddressScope::Any,
            _ => return Err("`address_scope`: global or any".to_owned()),
        };
        let nonce = data_encoding::HEXLOWER_PERMISSIVE
            .decode(file.nonce.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .ok_or("`nonce`: 32 hex digits")?;
        Ok(Self::found(Genesis::open(&file.name, scope, nonce)))
    }

    fn found(genesis: Genesis) -> Self {
        Self { id: genesis.id(), scope: genesis.scope, name: genesis.name }
    }
}
