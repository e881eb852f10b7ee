//! Settings: defaults of the role < `peerline.toml` < `PEERLINE_*` < flags. One configuration for every role; a role is
//! a set of defaults. Not here: what is made of them (`node`), and files that the node writes itself.
//!
//! An unknown key is an error that names it, so a typing mistake never silently means "default".

use figment::providers::{Env, Format, Serialized, Toml};
use figment::{Figment, error::Kind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

mod circuits;
mod defaults;
mod genesis;
mod relay;
mod types;

pub use circuits::CircuitSettings;
pub use genesis::{ChosenOverlay, OverlayChoiceError};
pub use relay::RelaySettings;
pub use types::{BadValue, Listen, PortRange, Serve, UdpPort};

/// What kind of node this is: a set of defaults, not another program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// One person at a desk; phones on loopback.
    #[default]
    Desktop,
    /// A public node: bootstrap and storage, no phones.
    Relay,
    /// An office: a registrar for the phones on the LAN.
    Gateway,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Desktop => "desktop",
            Self::Relay => "relay",
            Self::Gateway => "gateway",
        })
    }
}

/// Everything that can be set. `deploy/peerline.toml` explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which set of defaults.
    pub role: Role,
    /// The overlay to join, and how.
    pub overlay: OverlaySettings,
    /// Connections passed on for others, and by others.
    pub circuits: CircuitSettings,
    /// Voice passed on for others, and address answers.
    pub relay: RelaySettings,
    /// Where phones register.
    pub sip: SipSettings,
    /// Voice packets.
    pub media: MediaSettings,
    /// Calls.
    pub calls: CallSettings,
    /// The signed "reachable here".
    pub binding: BindingSettings,
    /// The local API.
    pub api: ApiSettings,
    /// Logs on stderr.
    pub log: LogSettings,
}

/// `[overlay]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlaySettings {
    /// Built-in name (`peerline.alt`) or the path of an overlay file.
    pub join: String,
    /// Private overlay made of this word, for tests and the demo (address scope any). Wins over `join`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub test_seed: Option<String>,
    /// Multiaddrs to listen on; port 0 becomes the port kept for this installation. Empty: all interfaces, TCP and QUIC.
    pub listen: Vec<String>,
    /// `/ip4/../tcp/../p2p/..` of nodes to join through.
    pub bootstrap: Vec<String>,
    /// Multiaddrs under which others reach this node, if they differ from `listen` (port forwarding).
    pub external: Vec<String>,
    /// Find nodes on the same network by multicast.
    pub mdns: bool,
    /// Ask the home's router to open this node's ports (PCP, NAT-PMP, UPnP).
    pub map_ports: bool,
    /// Serve the DHT: `auto`, `on`, `off`.
    pub serve: Serve,
    /// Connections in total, per address, and per /24 or /48.
    pub max_connections: u32,
    pub max_connections_per_ip: u32,
    pub max_connections_per_subnet: u32,
    /// Open links between users (one per pair of users in a call or just after).
    pub max_links: usize,
    /// Records of others held for the overlay.
    pub max_records: usize,
}

/// `[sip]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SipSettings {
    /// `host:port` or `off`.
    pub udp: Listen,
    /// `host:port` or `off`.
    pub tcp: Listen,
    pub max_legs: usize,
    pub max_contacts_per_account: usize,
    pub max_tcp_connections: usize,
    /// Requests per second and burst, per source address.
    pub requests_per_second: u32,
    pub request_burst: u32,
}

/// `[media]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaSettings {
    /// UDP ports for RTP and RTCP, `first-last`.
    pub ports: PortRange,
    pub max_legs: usize,
}

/// `[calls]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallSettings {
    /// How long phones ring before the caller hears "no answer".
    #[serde(with = "humantime_serde")]
    pub ring_timeout: Duration,
    pub max_calls: usize,
}

/// `[binding]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingSettings {
    /// Life of a published binding: 60 s to 3 h (FORMATS, "What is stored").
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Mean time between refreshes; must be well below `ttl`.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiSettings {
    /// `host:port` or `off`; loopback only.
    pub listen: Listen,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// A tracing filter: `info`, `debug`, `peerline::sip=debug,warn`.
    pub filter: String,
}

/// What the command line says; `None` and empty mean "not said".
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub role: Option<Role>,
    pub listen: Vec<String>,
    pub bootstrap: Vec<String>,
    pub external: Vec<String>,
    pub sip: Option<Listen>,
    pub api: Option<Listen>,
    pub no_mdns: bool,
    pub serve: Option<Serve>,
    pub overlay: Option<String>,
    pub test_overlay: Option<String>,
    pub log: Option<String>,
}

/// Why there are no settings. One line, ready to print.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{source_name}: unknown setting `{key}` (known here: {known})")]
    UnknownKey { source_name: String, key: String, known: String },
    #[error("{source_name}: {key}{what}")]
    BadValue { source_name: String, key: String, what: String },
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("setting `{key}`: {what}")]
    OutOfRange { key: &'static str, what: String },
}

/// Environment variables that steer the program but are not settings.
const NOT_SETTINGS: &[&str] = &["data_dir", "config", "passphrase_file"];

impl Settings {
    /// Puts the settings together. `file` is read if it exists; with `required` it must exist (`--config`).
    ///
    /// # Errors
    /// The first unknown key, bad value or unreadable file; then the ranges.
    pub fn load(file: &Path, required: bool, flags: &Flags) -> Result<Self, SettingsError> {
        let mut given = Figment::new();
        match std::fs::read_to_string(file) {
            Ok(_) => given = given.merge(Toml::file_exact(file)),
            Err(source) if required || source.kind() != std::io::ErrorKind::NotFound => {
                return Err(SettingsError::Unreadable { path: file.to_owned(), source });
            }
            Err(_) => {}
        }
        Self::compose(given.merge(environment()), flags)
    }

    /// The defaults of a role, with the environment and files left out: for the demo and tests.
    pub fn of_role(role: Role) -> Self {
        defaults::of_role(role)
    }

    /// Reads settings from text, as `load` does from a file, without the environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_toml(text: &str, flags: &Flags) -> Result<Self, SettingsError> {
        Self::compose(Figment::new().merge(Toml::string(text)), flags)
    }

    fn compose(given: Figment, flags: &Flags) -> Result<Self, SettingsError> {
        let role = match flags.role {
            Some(role) => role,
            None => match given.extract_inner::<Role>("role") {
                Ok(role) => role,
                Err(e) if e.missing() => Role::default(),
                Err(e) => return Err(readable(&e)),
            },
        };
        let mut settings: Self = Figment::from(Serialized::defaults(defaults::of_role(role)))
            .merge(given)
            .extract()
            .map_err(|e| readable(&e))?;
        flags.apply(&mut settings);
        settings.role = role;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let out = |key, what: &str| Err(SettingsError::OutOfRange { key, what: what.to_owned() });
        let ttl = self.binding.ttl;
        if !(Duration::from_secs(60)..=Duration::from_secs(10_800)).contains(&ttl) {
            return out("binding.ttl", "must be from 60s to 3h");
        }
        if self.binding.refresh < Duration::from_secs(10) || self.binding.refresh * 2 > ttl {
            return out("binding.refresh", "must be at least 10s and at most half of binding.ttl");
        }
        if !(Duration::from_secs(5)..=Duration::from_secs(600)).contains(&self.calls.ring_timeout) {
            return out("calls.ring_timeout", "must be from 5s to 10min");
        }
        if self.media.ports.len() < 4 {
            return out("media.ports", "at least four ports are needed for one call");
        }
        if let Listen::At(api) = self.api.listen
            && !api.ip().is_loopback()
        {
            return out("api.listen", "must be a loopback address");
        }
        for (key, zero) in [
            ("overlay.max_connections", self.overlay.max_connections == 0),
            ("overlay.max_connections_per_ip", self.overlay.max_connections_per_ip == 0),
            ("overlay.max_connections_per_subnet", self.overlay.max_connections_per_subnet == 0),
            ("sip.max_contacts_per_account", self.sip.max_contacts_per_account == 0),
            ("sip.requests_per_second", self.sip.requests_per_second == 0),
            ("sip.request_burst", self.sip.request_burst == 0),
        ] {
            if zero {
                return out(key, "must be at least 1");
            }
        }
        self.relay.check()?;
        self.circuits.check()
    }

    /// The settings as a `peerline.toml`.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_else(|e| format!("# cannot be shown: {e}\n"))
    }
}

impl Flags {
    fn apply(&self, settings: &mut Settings) {
        let overlay = &mut settings.overlay;
        for (flag, setting) in [
            (&self.listen, &mut overlay.listen),
            (&self.bootstrap, &mut overlay.bootstrap),
            (&self.external, &mut overlay.external),
        ] {
            if !flag.is_empty() {
                setting.clone_from(flag);
            }
        }
        if self.no_mdns {
            overlay.mdns = false;
        }
        if let Some(serve) = self.serve {
            overlay.serve = serve;
        }
        if let Some(join) = &self.overlay {
            overlay.join.clone_from(join);
            overlay.test_seed = None;
        }
        if self.test_overlay.is_some() {
            overlay.test_seed.clone_from(&self.test_overlay);
        }
        if let Some(sip) = self.sip {
            settings.sip.udp = sip;
            settings.sip.tcp = sip;
        }
        if let Some(api) = self.api {
            settings.api.listen = api;
        }
        if let Some(log) = &self.log {
            settings.log.filter.clone_from(log);
        }
    }
}

fn environment() -> Env {
    Env::prefixed("PEERLINE_").ignore(NOT_SETTINGS).split("__")
}

/// figment's error as one line that names the source and the key.
fn readable(error: &figment::Error) -> SettingsError {
    let source_name = match &error.metadata {
        Some(m) => match &m.source {
            Some(source) => source.to_string(),
            None if m.name.contains("environment") => "environment".to_owned(),
            None => m.name.to_string(),
        },
        None => "settings".to_owned(),
    };
    let mut path = error.path.clone();
    match &error.kind {
        Kind::UnknownField(field, known) => {
            if path.last() != Some(field) {
                path.push(field.clone());
            }
            SettingsError::UnknownKey { source_name, key: path.join("."), known: known.join(", ") }
        }
        kind => {
            let key = if path.is_empty() { String::new() } else { format!("`{}`: ", path.join(".")) };
            // The parser of the file draws several lines; the first one says what and where.
            let text = kind.to_string();
            let what = text.lines().filter(|l| !l.contains('|')).map(str::trim).collect::<Vec<_>>().join(" ");
            SettingsError::BadValue { source_name, key, what: what.trim().to_owned() }
        }
    }
}

impl FromStr for Role {
    type Err = BadValue;
    fn from_str(s: &str) -> Result<Self, BadValue> {
        match s {
            "desktop" => Ok(Self::Desktop),
            "relay" => Ok(Self::Relay),
            "gateway" => Ok(Self::Gateway),
            _ => Err(BadValue("desktop, relay or gateway")),
        }
    }
}

#[cfg(test)]
mod tests;
