//! Whether a way to a relay is open now, found out by dialling it as somebody else: a connection that this node has already
//! says nothing of a new one.

use super::Overlay;
use super::circuits::Through;
use super::dialling::Dialling;
use super::meter::Traffic;
use super::transport;
use crate::wire::AddressScope;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{self, SwarmEvent, dummy};
use libp2p::{Multiaddr, Swarm};
use std::time::{Duration, Instant};

impl Overlay {
    /// Dials the relay of a circuit at which this node is reached, at the address that it names, TCP or QUIC, and hangs up.
    /// Returns how long it took until the relay had proved its key: one round trip or two over QUIC, three or four over
    /// TCP. `None`: it did not within `patience`, or `circuit` is none. Cancel safe.
    pub async fn dial_relay(circuit: &[u8], patience: Duration) -> Option<Duration> {
        let Through { relay, at } = Through::read(&Multiaddr::try_from(circuit.to_vec()).ok()?)?;
        let key = Keypair::generate_ed25519();
        // An address in this node's own record: nobody else had it dialled.
        let rules = Dialling::new(AddressScope::Any);
        let transport = transport::build(&key, &Traffic::default(), &rules).ok()?;
        let settings = swarm::Config::with_tokio_executor();
        let mut swarm = Swarm::new(transport, dummy::Behaviour, key.public().to_peer_id(), settings);
        let start = Instant::now();
        swarm.dial(DialOpts::peer_id(relay).addresses(vec![at]).build()).ok()?;
        let answer = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => return Some(start.elapsed()),
                    SwarmEvent::OutgoingConnectionError { .. } => return None,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(patience, answer).await.ok().flatten()
    }
}
