//! Asking media relays: which ones there are, and ports for a call of this node.

use super::choice::{Fault, Here, Known};
use super::{Actor, address, peer_named};
use crate::admission::Subnet;
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::ledger::Fact;
use crate::overlay::address::{ip_of, node_of, to_multiaddr};
use crate::relay::message::{Reply, Request};
use crate::relay::{CallId, Refusal};
use bytes::Bytes;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Asked for at once. A caller renews in time; who crashes leaves ports in use for so long.
const SECONDS: u32 = 1_800;

/// From the wish to the last answer, dials included.
const PATIENCE: Duration = Duration::from_secs(4);

/// Wishes at a time: each is a call that begins, goes on or ends.
const MAX_WISHES: usize = 256;

/// Two ports on a relay: what comes to one goes out of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub call: CallId,
    /// Who relays.
    pub relay: NodeKey,
    /// Where this node sends to and hears from.
    pub ours: SocketAddr,
    /// Where the far end does: its `relayed` candidate.
    pub theirs: SocketAddr,
    /// The same in the other family, if the relay has both.
    pub theirs_too: Option<SocketAddr>,
    /// It ends then, unless it is renewed.
    pub until: UnixMillis,
    /// Both directions together, headers counted.
    pub max_bits_per_second: u32,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayRefused {
    #[error("no media relay is known")]
    NoRelay,
    /// By the last one that was asked.
    #[error("refused by the relay: {0}")]
    Refused(Refusal),
    #[error("no media relay answers")]
    Unreachable,
    #[error("the overlay is stopping")]
    Stopped,
}

/// What a call wants of a relay.
#[derive(Debug)]
pub enum Want {
    Allocate {
        call: CallId,
        peer: Option<NodeKey>,
        reply: oneshot::Sender<Result<Allocation, RelayRefused>>,
    },
    Renew {
        allocation: Allocation,
        reply: oneshot::Sender<Result<Allocation, RelayRefused>>,
    },
    Release {
        allocation: Allocation,
    },
    /// Nothing came through what it gave: others are asked before it for a while.
    Blame {
        relay: NodeKey,
    },
}

impl Want {
    fn request(&self) -> Option<Request> {
        Some(match self {
            Self::Allocate { call, peer, .. } => Request::Allocate { call: *call, seconds: SECONDS, peer: *peer },
            Self::Renew { allocation, .. } => Request::Renew { call: allocation.call, seconds: SECONDS },
            Self::Release { allocation } => Request::Release { call: allocation.call },
            Self::Blame { .. } => return None,
        })
    }

    fn is_wanted(&self) -> bool {
        match self {
            Self::Allocate { reply, .. } | Self::Renew { reply, .. } => !reply.is_closed(),
            Self::Release { .. } => true,
            Self::Blame { .. } => false,
        }
    }

    /// Who asked may have gone.
    fn failed(self, why: RelayRefused) {
        match self {
            Self::Allocate { reply, .. } | Self::Renew { reply, .. } => drop(reply.send(Err(why))),
            Self::Release { .. } | Self::Blame { .. } => {}
        }
    }
}

/// A wish, and who may still fulfil it.
#[derive(Debug)]
struct Wish {
    want: Want,
    /// `None`: to be chosen. A node that has just started is still being told which relays there are.
    candidates: Option<Vec<PeerId>>,
    until: Instant,
    last: RelayRefused,
    /// Whom it was put to a second time: nothing keeps a connection open, and it may close under the question.
    again: Option<PeerId>,
}

/// What a request was sent for.
#[allow(clippy::large_enum_variant, reason = "there are few, and each is taken apart at once")]
#[derive(Debug)]
enum Sent {
    /// To know what a relay has.
    Where {
        relay: PeerId,
        at: Instant,
    },
    For(Wish),
}

pub(in crate::overlay) struct Asking {
    known: Known,
    sent: HashMap<OutboundRequestId, Sent>,
    /// Nobody whom they may ask is connected yet.
    waiting: Vec<Wish>,
    servers: watch::Sender<Vec<SocketAddr>>,
}

impl Asking {
    pub(super) fn new(servers: watch::Sender<Vec<SocketAddr>>) -> Self {
        Self { known: Known::default(), sent: HashMap::new(), waiting: Vec::new(), servers }
    }

    pub(super) fn knows_media_relay(&self) -> bool {
        self.known.has_media()
    }

    fn tell_servers(&self) {
        let servers = self.known.stun_servers();
        self.servers.send_if_modified(|told| std::mem::replace(told, servers.clone()) != servers);
    }
}

impl Actor {
    /// A peer speaks `relay/1`.
    pub(super) fn relay_found(&mut self, peer: PeerId, now: Instant) {
        // It may say twice what it speaks before it has answered once.
        let asked = |sent: &Sent| matches!(sent, Sent::Where { relay, .. } if *relay == peer);
        let asking = &self.relaying.asking;
        if asking.known.wants(&peer, now) && !asking.sent.values().any(asked) {
            self.relay_send(peer, &Request::Where, Sent::Where { relay: peer, at: now });
        }
    }

    /// This node dialled a peer at `ip`.
    pub(in crate::overlay) fn relay_reached(&mut self, peer: &PeerId, ip: IpAddr) {
        self.relaying.asking.known.reached(peer, ip);
        self.relaying.asking.tell_servers();
    }

    /// A host with IPv4 and IPv6 is seen elsewhere in each, and may have met all relays in one: some are dialled in the
    /// other, where their cards say.
    pub(in crate::overlay) fn relays_sought(&mut self, now: Instant) {
        for v4 in [true, false] {
            let here = |ip: IpAddr| ip.is_ipv4() == v4 && !is_local(&ip);
            if !self.listen.iter().filter_map(ip_of).any(here) {
                continue;
            }
            let there = |peer: &PeerId| -> Vec<Multiaddr> {
                let card = node_of(peer).and_then(|node| self.table.card(&node));
                let there = card.iter().flat_map(|card| &card.addresses).filter(|address| address.ip.is_ipv4() == v4);
                there.map(to_multiaddr).collect()
            };
            let sought = self.relaying.asking.known.seek(v4, now, |peer| !there(peer).is_empty());
            let sought: Vec<_> = sought.into_iter().map(|peer| (peer, there(&peer))).collect();
            for (peer, there) in sought {
                self.feel_out(peer, there, now);
            }
        }
    }

    /// A peer does not.
    pub(super) fn relay_lost(&mut self, peer: &PeerId) {
        self.relaying.asking.known.forget(peer);
        self.relaying.asking.tell_servers();
    }

    fn relay_send(&mut self, peer: PeerId, request: &Request, sent: Sent) {
        let id = self.swarm.behaviour_mut().media_relays.send_request(&peer, request.encode().into());
        self.relaying.asking.sent.insert(id, sent);
    }

    /// A call wants something.
    pub(in crate::overlay) fn relay_wanted(&mut self, want: Want, now: Instant) {
        if let Want::Blame { relay } = want {
            if let Some(peer) = peer_named(&relay) {
                self.relaying.asking.known.failed(peer, Fault::Useless, now);
            }
            return;
        }
        let asking = &self.relaying.asking;
        if asking.sent.len() + asking.waiting.len() >= MAX_WISHES {
            self.meter.refuse("own: too many wishes of relays".into());
            return want.failed(RelayRefused::Unreachable);
        }
        let (until, last) = (now + PATIENCE, RelayRefused::NoRelay);
        self.relay_go_on(Wish { want, candidates: None, until, last, again: None }, now);
    }

    /// Whom to ask. Those who are not connected are dialled.
    fn relay_candidates(&mut self, want: &Want, now: Instant) -> Vec<PeerId> {
        let candidates: Vec<PeerId> = match want {
            Want::Allocate { call, peer, .. } => {
                let far = peer.and_then(|peer| self.relay_address_of(&peer)).map(Subnet::of);
                let known = &self.relaying.asking.known;
                known.candidates(call, far, now, |peer| self.swarm.is_connected(peer))
            }
            Want::Renew { allocation, .. } | Want::Release { allocation } => {
                peer_named(&allocation.relay).into_iter().collect()
            }
            Want::Blame { .. } => Vec::new(),
        };
        for peer in candidates.iter().take(2) {
            self.relay_dial(*peer);
        }
        candidates
    }

    fn relay_dial(&mut self, peer: PeerId) {
        if let Some(address) = self.relaying.asking.known.dialled(&peer).cloned() {
            self.dial_known(peer, vec![address]);
        }
    }

    /// Asks the next one that is connected, or waits for one.
    fn relay_go_on(&mut self, mut wish: Wish, now: Instant) {
        if !wish.want.is_wanted() {
            return;
        }
        if now >= wish.until {
            return wish.want.failed(wish.last);
        }
        let mut candidates = match wish.candidates.take() {
            Some(candidates) => candidates,
            None => self.relay_candidates(&wish.want, now),
        };
        if candidates.is_empty() {
            let hopeful = self.relaying.asking.sent.values().any(|sent| matches!(sent, Sent::Where { .. }));
            match wish.last == RelayRefused::NoRelay && hopeful {
                true => self.relaying.asking.waiting.push(wish),
                false => wish.want.failed(wish.last),
            }
            return;
        }
        if wish.last == RelayRefused::NoRelay {
            wish.last = RelayRefused::Unreachable;
        }
        let open = candidates.iter().position(|peer| self.swarm.is_connected(peer));
        let peer = open.map(|at| candidates.remove(at));
        wish.candidates = Some(candidates);
        match peer.zip(wish.want.request()) {
            Some((peer, request)) => self.relay_send(peer, &request, Sent::For(wish)),
            None => self.relaying.asking.waiting.push(wish),
        }
    }

    /// Somebody was connected, or time has passed.
    pub(in crate::overlay) fn relay_round(&mut self, now: Instant) {
        for wish in std::mem::take(&mut self.relaying.asking.waiting) {
            self.relay_go_on(wish, now);
        }
    }

    /// `closed`: the connection went, and the question with it; the same peer is asked once more, after the others.
    pub(super) fn relay_unanswered(&mut self, peer: PeerId, id: OutboundRequestId, closed: bool, now: Instant) {
        if !closed {
            self.relaying.asking.known.failed(peer, Fault::Useless, now);
        }
        match self.relaying.asking.sent.remove(&id) {
            Some(Sent::For(mut wish)) => {
                if closed && wish.again.is_none() {
                    wish.again = Some(peer);
                    wish.candidates.get_or_insert_default().push(peer);
                    self.relay_dial(peer);
                }
                self.relay_go_on(wish, now);
            }
            // It is asked again when it says again what it speaks.
            Some(Sent::Where { .. }) | None => tracing::trace!(%peer, "no answer of a relay"),
        }
    }

    pub(super) fn relay_answered(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        id: OutboundRequestId,
        bytes: Bytes,
        now: Instant,
    ) {
        let Some(sent) = self.relaying.asking.sent.remove(&id) else { return };
        let ip = self.relay_ip(&peer, connection);
        let reply = Reply::decode(bytes);
        match (sent, reply) {
            (Sent::Where { at, .. }, Ok(Reply::Here { observed, stun_port, media })) => {
                let Some(ip) = ip else { return };
                let dialled = self.peers.dialled_at(&peer).cloned();
                let here = Here { ip: ip.to_canonical(), observed, stun: stun_port, media };
                self.relaying.asking.known.told(peer, here, dialled, now.saturating_duration_since(at), now);
                self.relaying.asking.tell_servers();
                self.relay_round(now);
            }
            (Sent::For(mut wish), Ok(Reply::Refused(why))) => {
                if !matches!(why, Refusal::PeerFull | Refusal::NetworkFull | Refusal::TooOften | Refusal::Unknown) {
                    self.relaying.asking.known.failed(peer, Fault::Useless, now);
                }
                wish.last = RelayRefused::Refused(why);
                self.relay_go_on(wish, now);
            }
            (Sent::For(Wish { want: Want::Allocate { call, reply, .. }, .. }), Ok(Reply::Given { .. }))
                if reply.is_closed() =>
            {
                // Nobody wants it any more.
                let request = Request::Release { call };
                // Whether it comes back is all the same.
                let _ = self.swarm.behaviour_mut().media_relays.send_request(&peer, request.encode().into());
            }
            (
                Sent::For(Wish { want: Want::Allocate { call, reply, peer: far }, candidates, until, last, again }),
                Ok(Reply::Given { ours, theirs, seconds, bits_per_second }),
            ) => {
                // Only at itself: a relay sends us to no third party.
                let itself = |all: &[SocketAddr]| all.iter().find(|at| ip.is_some_and(|ip| same(at, ip))).copied();
                match (node_of(&peer), itself(&ours), itself(&theirs)) {
                    (Some(relay), Some(ours), Some(at)) => {
                        let other = theirs.iter().find(|other| other.is_ipv4() != at.is_ipv4()).copied();
                        let until = UnixMillis(UnixMillis::now().0 + u64::from(seconds) * 1_000);
                        let allocation = Allocation {
                            call,
                            relay,
                            ours,
                            theirs: at,
                            theirs_too: other.filter(|other| address::may_send(other, self.scope)),
                            until,
                            max_bits_per_second: bits_per_second,
                        };
                        self.relaying.asking.known.worked(&peer, now);
                        let _ = reply.send(Ok(allocation));
                    }
                    _ => {
                        self.relay_lied(peer, now);
                        let want = Want::Allocate { call, reply, peer: far };
                        self.relay_go_on(Wish { want, candidates, until, last, again }, now);
                    }
                }
            }
            (Sent::For(Wish { want: Want::Renew { allocation, reply }, .. }), Ok(Reply::Renewed { seconds })) => {
                let until = UnixMillis(UnixMillis::now().0 + u64::from(seconds) * 1_000);
                let _ = reply.send(Ok(Allocation { until, ..allocation }));
            }
            (Sent::For(Wish { want: Want::Release { .. }, .. }), Ok(Reply::Released)) => {}
            (Sent::Where { .. }, _) => self.relay_lied(peer, now),
            (Sent::For(wish), _) => {
                self.relay_lied(peer, now);
                self.relay_go_on(wish, now);
            }
        }
    }

    /// A reply that makes no sense.
    fn relay_lied(&mut self, peer: PeerId, now: Instant) {
        self.meter.refuse("relay: a reply that makes no sense".into());
        self.ledger.note(peer, Fact::Refused, now);
        self.relaying.asking.known.failed(peer, Fault::Lie, now);
        self.relay_lost(&peer);
    }
}

/// Leads to this host or link alone.
fn is_local(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

fn same(at: &SocketAddr, ip: IpAddr) -> bool {
    at.ip().to_canonical() == ip.to_canonical()
}
