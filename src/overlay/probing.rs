//! Whether a way is open now, found out by going it as somebody else: a connection that this node has already says nothing of
//! a new one.

use super::Overlay;
use super::address::peer_named;
use super::circuits::Through;
use super::dialling::Dialling;
use super::meter::Traffic;
use super::transport;
use crate::wire::AddressScope;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{self, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use std::time::{Duration, Instant};

impl Overlay {
    /// Dials the relay of a circuit at which this node is reached, at the address that it names, TCP or QUIC, and hangs up.
    /// Returns how long it took until the relay had proved its key: one round trip or two over QUIC, three or four over
    /// TCP. `None`: it did not within `patience`, or `circuit` is none. Cancel safe.
    pub async fn dial_relay(circuit: &[u8], patience: Duration) -> Option<Duration> {
        let Through { relay, at } = Through::read(&Multiaddr::try_from(circuit.to_vec()).ok()?)?;
        dial(relay, at, patience).await
    }

    /// Dials this node itself through such a circuit, as any caller would. Returns how long it took until it had proved
    /// its own key to itself. `None`: it did not within `patience`, or `circuit` is none. Cancel safe.
    pub async fn dial_itself(&self, circuit: &[u8], patience: Duration) -> Option<Duration> {
        let through = Through::read(&Multiaddr::try_from(circuit.to_vec()).ok()?)?;
        let here = peer_named(&self.node)?;
        dial(here, through.address().with(Protocol::P2p(here)), patience).await
    }
}

/// Dials `peer` at `at` under a key made for it.
async fn dial(peer: PeerId, at: Multiaddr, patience: Duration) -> Option<Duration> {
    let key = Keypair::generate_ed25519();
    // Addresses in this node's own record: nobody else had them dialled.
    let rules = Dialling::new(AddressScope::Any);
    let (transport, relayed) = transport::build_with_circuits(&key, &Traffic::default(), &rules).ok()?;
    let settings = swarm::Config::with_tokio_executor();
    let mut swarm = Swarm::new(transport, relayed, key.public().to_peer_id(), settings);
    let start = Instant::now();
    swarm.dial(DialOpts::peer_id(peer).addresses(vec![at]).build()).ok()?;
    let answer = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => return Some(start.elapsed()),
                SwarmEvent::OutgoingConnectionError { .. } => return None,
                _ => {}
            }
        }
    };
    tokio::time::timeout(patience, answer).await.ok().flatten()
}
