//! ICE between two nodes (RFC 8445, trickled as in RFC 8838): which of our addresses reaches which of theirs.
//!
//! One agent per stream, RTP and RTCP on one socket. Candidates travel on the link of the two nodes, which is
//! authenticated and encrypted, so only the two ends know the passwords that make a check genuine: a neighbour with the
//! peer's private address is not mistaken for the peer.
//!
//! ```text
//! link ── Ice ──▶ message ──▶ machine ──▶ agent (crate `is`)      what to send, which pair to use
//! sockets ─ STUN ─▶ stun  ──▶    │   └──▶ guard                   whom we may send to at all
//!                   driver ◀─ effects: send, tell the far end, choose a path, ask for a relay
//! ```
//!
//! A relay hands out two ports: what comes to one goes out of the other. To us the far end is behind `ours`, to it we
//! are behind `theirs`. So `ours` is checked like an address of the far end, and `theirs` told as a candidate of ours.

mod agent;
mod driver;
mod gather;
mod guard;
mod machine;
mod message;
mod pair;
mod routes;
mod stun;

#[cfg(test)]
mod tests;

use super::framed::BoxDuplex;
use bytes::Bytes;
pub(super) use driver::{Driver, attach, drive};
use futures::future::BoxFuture;
use std::fmt;
use std::net::SocketAddr;
pub(super) use stun::is_stun;

/// Which call of a link something is about: drawn by the end that offers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(pub [u8; 16]);

impl CallId {
    /// The call that a message of the far end is about, if it is one. Nothing else of it is read.
    pub fn of(message: &Bytes) -> Option<CallId> {
        message::call_of(message)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// Two ports of a relay: what comes to one goes out of the other. Given back on drop.
pub struct Relay {
    /// Where we send.
    pub ours: SocketAddr,
    /// Where the far end sends: the same port, at the relay's addresses of both families if it has them.
    pub theirs: Vec<SocketAddr>,
    /// Keeps them.
    pub lease: Box<dyn Lease>,
}

/// Two ports of a relay are ours while this lives.
pub trait Lease: Send {
    /// Nothing came through them.
    fn blame(&self);
}

/// What a leg needs of the node around it to find paths.
pub trait Surroundings: Send + Sync + 'static {
    /// Tells the far end of the call something, at most 4 KiB, in order. Must not block.
    fn tell(&self, message: Bytes);

    /// Servers that say which address they see (RFC 8489 Binding over UDP).
    fn stun_servers(&self) -> Vec<SocketAddr>;

    /// Two ports of a relay for this call, if any relay grants them. Dropping the future gives up.
    fn relay(&self, call: CallId) -> BoxFuture<'static, Option<Relay>>;

    /// A stream of bytes to the far end, for when no UDP gets through. Dropping the future gives up.
    fn pipe(&self, call: CallId) -> BoxFuture<'static, Option<BoxDuplex>>;

    /// Whether addresses of this very machine count: in tests and closed overlays.
    fn loopback(&self) -> bool;
}
