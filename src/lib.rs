//! Peerline: a telephone system without a telephone company.
//!
//! The modules stand on six rungs; a module uses those below its own, and a neighbour only along an arrow
//! (`tests/layering.rs` enforces it):
//!
//! ```text
//! edges      cli → gateway → node → web, config     how people and processes reach the inside
//! use cases  calls → locator                        the only places that combine machines
//! machines   sip   media   overlay → relay → store  each owns one resource behind a cloneable handle
//! engine     dht                                    finds and keeps records among liars; pure like the rules
//! rules      record  admission → ledger  directory  reachability    pure decisions: no async, no clock, no I/O
//! words      clock  identity  uri  wire  telemetry  values everyone may use
//! ```
#![forbid(unsafe_code)]

pub mod clock;
pub mod identity;
pub mod telemetry;
pub mod uri;
pub mod wire;

pub mod admission;
pub mod directory;
pub mod ledger;
pub mod reachability;
pub mod record;

pub mod dht;

pub mod media;
pub mod overlay;
pub mod relay;
pub mod sip;
pub mod store;

pub mod calls;
pub mod locator;

pub mod cli;
pub mod config;
pub mod gateway;
pub mod node;
pub mod web;
