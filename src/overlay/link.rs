//! `sip/1`: one authenticated, resumable stream of opaque messages per pair of users on a pair of nodes.
//!
//! It does not know that there is SIP, and it does not decide whom to dial: the owner (`overlay`) asks for a link and is
//! told what came of it. Data passes like this:
//!
//! ```text
//! owner ── connect/send/close ──▶ behaviour ── frames ──▶ handler (one per connection) ── pipe (one per stream) ──▶ peer
//! owner ◀── Event ─────────────── behaviour ◀─ frames ─── handler ◀──────────────────────  pipe ◀────────────────── peer
//! ```
//!
//! `pipe` cuts a stream into frames, `frame` says what a frame is, `hello` who is at the far end, `session` (pure) keeps
//! messages exactly once and in order over any number of streams, `table` (pure) holds the links, and `behaviour` joins
//! them. The user that opened a session is the only one who opens streams for it, so a resumption cannot cross another.

mod behaviour;
mod carry;
mod detour;
mod doubt;
mod frame;
mod handler;
mod hello;
mod open;
mod pipe;
mod place;
mod session;
mod table;

pub use behaviour::Behaviour;
pub use place::{node_key_of, peer_id_of};

use crate::clock::UnixMillis;
use crate::overlay::{LinkError, LinkId};
use crate::record::{RejectReason, VerifiedPeerUser};
use crate::uri::IdHash;
use bytes::Bytes;
use libp2p::PeerId;
use std::net::IpAddr;
use std::time::Duration;

/// Longest frame, bytes, without its length word (FORMATS `sip/1`).
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Longest message that a link takes, bytes: leaves room in the frame for its fields.
pub const MAX_MESSAGE_BYTES: usize = 60 * 1024;
/// Longest description of paths that a link takes, bytes: twelve candidates of the longest kind and what names them.
pub const MAX_ICE_BYTES: usize = 4 * 1024;
/// Longest first frame, bytes: a 12 KiB bundle and the hello around it. Strangers may not make us hold more than this.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;
/// How far the clocks of two ends may differ, seconds: the same as for records (FORMATS "What is stored").
pub const MAX_CLOCK_SKEW_SECONDS: u64 = 300;

/// Bounds and times of the links of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Links of all peers together. Default 1,024: a gateway's busy hour; about 3 KiB each when quiet.
    pub max_links: usize,
    /// Links with one peer. Default 64: two gateways with many users in common; one peer must not take all the links.
    pub max_links_per_peer: usize,
    /// Inbound streams of all peers that have not said hello yet. Default 256: 16 KiB each at most, so 4 MiB.
    pub max_hellos: usize,
    /// Refused hellos and streams of one peer per minute until its connections are closed. Default 20: a person who
    /// dials wrong numbers stays below, a scanner does not.
    pub max_refusals_per_minute: u32,
    /// Hellos of one peer per minute, valid or not. Default 240: all its links may move three times; some 0.1 s of CPU.
    pub max_hellos_per_minute: u32,
    /// Messages of one link that wait to be acknowledged. Default 256: several forked calls with all their retransmits.
    pub max_queued_messages: usize,
    /// Bytes of one link that wait to be acknowledged. Default 1 MiB.
    pub max_queued_bytes: usize,
    /// Remote users whose pin is kept. Default 16,384: about 1 MiB.
    pub max_pins: usize,
    /// How long a link without a connection is kept for a new one. Default 5 s: longer than a network change takes,
    /// shorter than a person waits in silence.
    pub grace: Duration,
    /// The same of a link that is held: voice has ways of its own and may flow on. Default 60 s: routers that forgot their
    /// mappings cost the signalling half a minute.
    pub held_grace: Duration,
    /// From opening a stream to a complete hello. Default 5 s: two round trips on the worst relayed path.
    pub hello_timeout: Duration,
    /// A heartbeat leaves after this much silence of ours. Default 10 s.
    pub heartbeat: Duration,
    /// A message that is not acknowledged for this long casts doubt on its stream: another one is opened. Default 4 s: the
    /// worst relayed path and the delay of acknowledgements, well before a caller gives up.
    pub answer: Duration,
    /// A hello over a connection that was there before is not answered for this long: another connection is dialled beside
    /// it, and the first that answers carries the link. Default 250 ms: longer than most round trips, not felt in a call.
    pub hedge: Duration,
    /// A message of a link that is up is not acknowledged for this long: another connection is dialled beside it, which
    /// shows whether the far end was started anew. Default 700 ms: acknowledgements may take 200 ms and the round trip.
    pub doubt: Duration,
    /// A stream on which nothing came for this long is dead. Default 25 s: two heartbeats lost; with `grace` 30 s in all.
    pub silence: Duration,
    /// A link without a message for this long is closed, unless held ([`Behaviour::hold`]). Default 4 h: a link does
    /// not know of calls, and a long call is silent in signalling.
    pub idle: Duration,
    /// The wall clock, for hellos and certificates. Tests put another one here.
    pub clock: fn() -> UnixMillis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_links: 1024,
            max_links_per_peer: 64,
            max_hellos: 256,
            max_refusals_per_minute: 20,
            max_hellos_per_minute: 240,
            max_queued_messages: 256,
            max_queued_bytes: 1024 * 1024,
            max_pins: 16_384,
            grace: Duration::from_secs(5),
            held_grace: Duration::from_secs(60),
            hello_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(10),
            answer: Duration::from_secs(4),
            hedge: Duration::from_millis(250),
            doubt: Duration::from_millis(700),
            silence: Duration::from_secs(25),
            idle: Duration::from_secs(4 * 3600),
            clock: UnixMillis::now,
        }
    }
}

/// What comes up to the owner, in order.
#[derive(Debug)]
pub enum Event {
    /// Both ends have proved who they are. `outbound`: [`Behaviour::connect`] was called for it. The addresses are those
    /// of the connection that carries it now; unspecified (`0.0.0.0`) where there is none, as behind a name.
    LinkUp {
        link: LinkId,
        local: IdHash,
        remote: VerifiedPeerUser,
        outbound: bool,
        local_ip: IpAddr,
        remote_ip: IpAddr,
    },
    /// One message, in order, exactly once.
    LinkMessage { link: LinkId, message: Bytes },
    /// Paths of the far end to a call, in one order with the messages, exactly once. Not read here.
    LinkIce { link: LinkId, bytes: Bytes },
    /// A link that we opened has no stream, and is dialled where it was before. Again every few seconds until it has one or
    /// is down: who knows other addresses says them by [`Behaviour::connect`].
    LinkLost { link: LinkId },
    /// The link is gone; nothing more comes on it. Follows each `LinkUp` exactly once.
    /// `never`: the far end never said its hello, for this reason.
    LinkDown { link: LinkId, reason: String, never: Option<LinkError> },
    /// A `connect` came to nothing; there was no `LinkUp`.
    ConnectFailed { link: LinkId, error: LinkError },
    /// A peer was refused something: for the ledger and the counters.
    Refused { peer: PeerId, reason: Refusal },
}

/// Why a peer was refused. Counted by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("bytes that are not a frame")]
    Malformed,
    #[error("frame too large")]
    TooLarge,
    #[error("no hello in time")]
    HelloTimeout,
    #[error("no such user here")]
    NoSuchUser,
    #[error("clock too far off")]
    Clock,
    #[error("no common version")]
    Version,
    #[error("not proven: {0}")]
    NotProven(RejectReason),
    #[error("unknown session")]
    UnknownSession,
    #[error("too many streams")]
    Flood,
    #[error("no room for another link")]
    Full,
}

#[cfg(test)]
mod tests;
