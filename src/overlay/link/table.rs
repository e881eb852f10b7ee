//! The links and connections of this node, as tables. Pure: no sockets, no clock.

use super::detour::Detour;
use super::hello::SessionId;
use super::session::Session;
use crate::identity::NodeKey;
use crate::overlay::{LinkError, LinkId};
use crate::record::VerifiedPeerUser;
use crate::uri::IdHash;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Window in which a peer's hellos and refusals are counted.
const COUNTING_WINDOW: Duration = Duration::from_secs(60);

/// A stream of a connection of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StreamRef {
    pub peer: PeerId,
    pub connection: ConnectionId,
    pub number: u64,
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Inbound, and has not said whose it is.
    Greeting,
    /// Outbound, on the way to a hello.
    Opening(LinkId),
    /// The one stream of a link.
    Carrying(LinkId),
}

/// One link for each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub local: IdHash,
    pub remote: IdHash,
    pub peer: PeerId,
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Asked for here; nobody has proved anything yet.
    Opening {
        until: Instant,
    },
    Up,
    /// Proved before, without a stream now.
    Lost {
        until: Instant,
    },
}

/// A stream being opened for a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub stream: StreamRef,
    /// Without an answer by then, another connection is dialled beside this one.
    pub doubted_at: Instant,
    pub until: Instant,
}

pub(super) struct Link {
    pub id: LinkId,
    pub pair: Pair,
    pub node: NodeKey,
    /// We opened the session, so we open its streams.
    pub opener: bool,
    /// A hello of ours for this session may have reached the far end, on this stream or one before.
    pub greeted: bool,
    /// The owner has been told that it is up.
    pub announced: bool,
    /// Messages go out on this stream behind our hello, before theirs has come.
    pub ahead: Option<StreamRef>,
    pub phase: Phase,
    pub session_id: SessionId,
    pub session: Session,
    pub current: Option<StreamRef>,
    pub attempt: Option<Attempt>,
    pub remote: Option<VerifiedPeerUser>,
    pub addresses: Vec<Multiaddr>,
    /// Ways around, if it cannot be dialled.
    pub detours: Vec<Detour>,
    pub dial: Option<ConnectionId>,
    /// Dialled since the far end last answered.
    pub dialled: bool,
    /// Connections on which an attempt failed since the last success.
    pub tried: Vec<ConnectionId>,
    pub retry_at: Option<Instant>,
    /// What to say if nothing works.
    pub error: LinkError,
    /// A session that the far end gave up for this one: its late hello must not replace it.
    pub abandoned: Option<SessionId>,
    /// A session that we gave up for this one, if the far end may have seen it: said with each answer, as an answer may
    /// get lost with its stream.
    pub given_up: Option<SessionId>,
    pub heard: Instant,
    /// Since when the far end owes us an acknowledgement, if it does.
    pub waiting_since: Instant,
    pub spoke: Instant,
    pub last_message: Instant,
    pub held: bool,
    /// When the owner is told that it has no stream.
    pub tell_lost_at: Instant,
    /// Messages in the outbox that the owner has not taken yet.
    pub untaken: u32,
}

impl Link {
    pub fn new(id: LinkId, pair: Pair, node: NodeKey, session_id: SessionId, session: Session, now: Instant) -> Self {
        Self {
            id,
            pair,
            node,
            opener: false,
            greeted: false,
            announced: false,
            ahead: None,
            phase: Phase::Up,
            session_id,
            session,
            current: None,
            attempt: None,
            remote: None,
            addresses: Vec::new(),
            detours: Vec::new(),
            dial: None,
            dialled: false,
            tried: Vec::new(),
            retry_at: None,
            error: LinkError::Unreachable,
            abandoned: None,
            given_up: None,
            heard: now,
            waiting_since: now,
            spoke: now,
            last_message: now,
            held: false,
            tell_lost_at: now,
            untaken: 0,
        }
    }

    pub fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Opening { .. })
    }

    /// The stream on which messages go out: that of the link, or one on which they go ahead.
    pub fn outlet(&self) -> Option<StreamRef> {
        if self.phase == Phase::Up { self.current } else { self.ahead }
    }

    /// What went ahead was not taken.
    pub fn stay_back(&mut self) {
        if self.ahead.take().is_some() {
            self.session.pause();
        }
    }

    /// The far end owes us an acknowledgement for this long.
    pub fn is_unanswered(&self, time: Duration, now: Instant) -> bool {
        self.session.awaits_ack() && now.saturating_duration_since(self.waiting_since) >= time
    }

    /// Something is being dialled because nothing is heard on it.
    pub fn is_doubted(&self) -> bool {
        self.dialled && self.session.awaits_ack()
    }

    /// Wants a stream, and none is being opened.
    pub fn is_waiting(&self) -> bool {
        self.phase != Phase::Up && self.attempt.is_none()
    }
}

/// An established connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub id: ConnectionId,
    pub relayed: bool,
    pub local_ip: IpAddr,
    pub remote_ip: IpAddr,
    /// The address that led to it, if we dialled.
    pub dialled: Option<Multiaddr>,
    /// Looks at which a circuit was of no use, and whether it ever was.
    pub spare: u8,
    pub carried: bool,
}

impl Connection {
    pub fn new(id: ConnectionId, point: &ConnectedPoint) -> Self {
        let (local_ip, remote_ip) = super::place::ips(point);
        let dialled = point.is_dialer().then(|| point.get_remote_address().clone());
        Self { id, relayed: super::place::is_relayed(point), local_ip, remote_ip, dialled, spare: 0, carried: false }
    }
}

/// A peer with at least one connection.
#[derive(Default)]
pub(super) struct Peer {
    pub connections: Vec<Connection>,
    refusals: u32,
    counted_since: Option<Instant>,
    hellos: u32,
}

impl Peer {
    /// The connection to open a stream on: direct before relayed, older before newer, none that failed just now.
    pub fn best(&self, tried: &[ConnectionId]) -> Option<&Connection> {
        self.connections.iter().filter(|c| !tried.contains(&c.id)).min_by_key(|c| c.relayed)
    }

    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.iter().find(|c| c.id == id)
    }

    pub fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.id == id)
    }

    /// Counts `more` refusals; the number in the present minute.
    pub fn refused(&mut self, more: u32, now: Instant) -> u32 {
        self.start_minute(now);
        self.refusals = self.refusals.saturating_add(more);
        self.refusals
    }

    /// Counts a hello; the number in the present minute.
    pub fn greeted(&mut self, now: Instant) -> u32 {
        self.start_minute(now);
        self.hellos = self.hellos.saturating_add(1);
        self.hellos
    }

    fn start_minute(&mut self, now: Instant) {
        if self.counted_since.is_none_or(|since| now.saturating_duration_since(since) >= COUNTING_WINDOW) {
            self.counted_since = Some(now);
            self.refusals = 0;
            self.hellos = 0;
        }
    }
}

/// All links, found by id or by pair.
#[derive(Default)]
pub(super) struct Links {
    by_id: HashMap<LinkId, Link>,
    by_pair: HashMap<Pair, LinkId>,
}

impl Links {
    pub fn insert(&mut self, link: Link) {
        self.by_pair.insert(link.pair, link.id);
        self.by_id.insert(link.id, link);
    }

    pub fn remove(&mut self, id: LinkId) -> Option<Link> {
        let link = self.by_id.remove(&id)?;
        self.by_pair.remove(&link.pair);
        Some(link)
    }

    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.by_id.get_mut(&id)
    }

    pub fn of_pair(&self, pair: &Pair) -> Option<LinkId> {
        self.by_pair.get(pair).copied()
    }

    /// A dial under way to the same peer that tries all addresses that this link knows.
    pub fn dial_for(&self, id: LinkId) -> Option<ConnectionId> {
        let link = self.get(id)?;
        let same = |other: &&Link| other.pair.peer == link.pair.peer && other.dial.is_some();
        let covers = |other: &&Link| link.addresses.iter().all(|address| other.addresses.contains(address));
        self.by_id.values().filter(same).find(covers)?.dial
    }

    /// Streams that are being opened on a connection.
    pub fn opening_on(&self, connection: ConnectionId) -> usize {
        self.by_id.values().filter(|link| link.attempt.is_some_and(|a| a.stream.connection == connection)).count()
    }

    pub fn is_linked(&self, peer: PeerId) -> bool {
        self.by_id.values().any(|link| link.pair.peer == peer)
    }

    pub fn of_peer(&self, peer: PeerId) -> Vec<LinkId> {
        self.matching(|link| link.pair.peer == peer)
    }

    pub fn matching(&self, wanted: impl Fn(&Link) -> bool) -> Vec<LinkId> {
        let mut ids: Vec<LinkId> = self.by_id.values().filter(|link| wanted(link)).map(|link| link.id).collect();
        ids.sort_unstable();
        ids
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn connection(id: usize, relayed: bool) -> Connection {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Connection {
            id: ConnectionId::new_unchecked(id),
            relayed,
            local_ip: ip,
            remote_ip: ip,
            dialled: None,
            spare: 0,
            carried: false,
        }
    }

    #[test]
    fn prefers_direct_connections_that_have_not_failed() {
        let peer = Peer {
            connections: vec![connection(1, true), connection(2, false), connection(3, false)],
            ..Peer::default()
        };
        assert_eq!(peer.best(&[]).map(|c| c.id), Some(ConnectionId::new_unchecked(2)));
        let tried = [2, 3].map(ConnectionId::new_unchecked);
        assert_eq!(peer.best(&tried).map(|c| c.id), Some(ConnectionId::new_unchecked(1)));
    }

    #[test]
    fn counts_refusals_by_the_minute() {
        let (mut peer, start) = (Peer::default(), Instant::now());
        assert_eq!(peer.refused(3, start), 3);
        assert_eq!(peer.refused(1, start + Duration::from_secs(59)), 4);
        assert_eq!(peer.refused(1, start + Duration::from_secs(60)), 1);
    }
}
