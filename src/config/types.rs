//! Values of settings that have their own notation.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What was expected instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct BadValue(pub &'static str);

/// `host:port`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    Off,
    At(SocketAddr),
}

impl Listen {
    /// The address, when on.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for Listen {
    type Err = BadValue;
    fn from_str(s: &str) -> Result<Self, BadValue> {
        if s == "off" {
            return Ok(Self::Off);
        }
        s.parse().map(Self::At).map_err(|_| BadValue("an address and port such as 127.0.0.1:5070, or off"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// UDP ports, both ends included: `20000-29999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// # Panics
    /// Never; an inverted range is empty.
    pub const fn new(first: u16, last: u16) -> Self {
        Self { first, last }
    }
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
    /// How many ports.
    pub fn len(self) -> usize {
        self.range().len()
    }
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl FromStr for PortRange {
    type Err = BadValue;
    fn from_str(s: &str) -> Result<Self, BadValue> {
        const WANT: BadValue = BadValue("two ports such as 20000-29999, from 1024 up");
        let (first, last) = s.split_once('-').ok_or(WANT)?;
        let (first, last): (u16, u16) =
            (first.trim().parse().map_err(|_| WANT)?, last.trim().parse().map_err(|_| WANT)?);
        if first < 1024 || last < first {
            return Err(WANT);
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Whether this node serves the DHT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Serve {
    /// By the rules: when it was dialled directly and the overlay is small enough to need everyone.
    Auto,
    On,
    Off,
}

impl Serve {
    /// As `overlay` wants it: `None` leaves it to the rules.
    pub fn forced(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

impl FromStr for Serve {
    type Err = BadValue;
    fn from_str(s: &str) -> Result<Self, BadValue> {
        match s {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(BadValue("auto, on or off")),
        }
    }
}

impl fmt::Display for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// A UDP port, 0 for any, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpPort {
    Off,
    At(u16),
}

impl FromStr for UdpPort {
    type Err = BadValue;
    fn from_str(s: &str) -> Result<Self, BadValue> {
        match s {
            "off" => Ok(Self::Off),
            _ => s.parse().map(Self::At).map_err(|_| BadValue("a port such as 3478, or \"off\"")),
        }
    }
}

impl fmt::Display for UdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(port) => port.fmt(f),
        }
    }
}

impl Serialize for UdpPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::At(port) => serializer.serialize_u16(*port),
        }
    }
}

impl<'de> Deserialize<'de> for UdpPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u16),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Number(port)) => Ok(Self::At(port)),
            Ok(Written::Text(text)) => text.parse().map_err(serde::de::Error::custom),
            Err(_) => Err(serde::de::Error::custom(BadValue("a port such as 3478, or \"off\""))),
        }
    }
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Listen, PortRange, Serve);
