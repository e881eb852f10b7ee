//! Starting: addresses are parsed, sockets opened, and every fault told in a sentence before anything runs.

use super::actor::Actor;
use super::address::{self, to_plain};
use super::answering::Answering;
use super::behaviour::{Behaviour, BehaviourEvent, protocol};
use super::cards::Cards;
use super::dialling::Dialling;
use super::intake::Intake;
use super::joining;
use super::meter::Meter;
use super::port_mapping::PortMapping;
use super::records::Records;
use super::upkeep::Upkeep;
use super::*;
use crate::clock::UnixMillis;
use crate::dht::{Pace, Position, Promotion, Repair, Voice};
use crate::reachability::Transport;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

/// Commands and events that wait in the channels.
const COMMANDS: usize = 1024;
const EVENTS: usize = 1024;

/// Addresses of a peer that are tried at the same time: all that a record, or who wants a hole punched, may name.
const AT_ONCE: std::num::NonZeroU8 = std::num::NonZeroU8::new(20).unwrap();

/// Sockets open at once or never.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What else the swarm may tell until then.
const MAX_EARLY: usize = 1_024;

/// Connections that nobody uses stay open for this long: joining, probing and calls meet them again.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);

impl Overlay {
    /// Starts the swarm and its actor. Events must be drained: while they are not, links are held back.
    ///
    /// # Errors
    /// [`StartError::Listen`] when a socket cannot be opened, [`StartError::Address`] for an address that makes no
    /// sense, both with a sentence for the user.
    pub async fn start(
        config: OverlayConfig,
        store: Store,
        metrics: Metrics,
    ) -> Result<(Overlay, mpsc::Receiver<OverlayEvent>), StartError> {
        let listen = parse_all(&config.listen)?;
        let bootstrap: Vec<_> = parse_all(&config.bootstrap)?.into_iter().map(address::split_peer).collect();
        let (bootstrap, lists) = listed::watch(bootstrap);
        let external = parse_all(&config.external)?;
        let key =
            Keypair::ed25519_from_bytes(config.secret.to_bytes()).map_err(|e| StartError::Other(e.to_string()))?;
        let here = key.public().to_peer_id();
        let meter = Meter::new(&metrics);
        let dialling = Dialling::new(config.scope);
        let (transport, relayed) = transport::build_with_circuits(&key, &meter.traffic, &dialling)
            .map_err(|e| StartError::Other(e.to_string()))?;
        let grants = circuits::Grants::new(config.circuits.limits.clone());
        let records =
            Records::new(Position::of_node(&config.secret.public()), config.limits.max_records, UnixMillis::now);
        let settings = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_CONNECTION)
            .with_dial_concurrency_factor(AT_ONCE)
            // A stream's first bytes go out with the name of its protocol: a round trip less for every question and call.
            .with_substream_upgrade_protocol_override(Version::V1Lazy);
        let mut swarm = Swarm::new(transport, Behaviour::new(&config, &key, records, relayed, &grants), here, settings);
        for address in &external {
            swarm.add_external_address(address.clone());
        }
        let (listening, early) = listen_on_all(&mut swarm, listen).await?;

        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, event_receiver) = mpsc::channel(EVENTS);
        let (publishable, publishable_receiver) = watch::channel(Vec::new());
        let (status, status_receiver) = watch::channel(OverlayStatus::default());
        let (writer, writing) = disk::spawn_writer(store.clone());
        let loaded = disk::spawn_loader(store.clone(), config.limits.max_records, config.overlay, config.scope);
        let now = Instant::now();
        let server = config.server.unwrap_or(false);
        let node = config.secret.public();
        let position = Position::of_node(&node);
        let mut table = crate::dht::Table::new(position);
        table.set_pace(if server { Pace::Server } else { Pace::Client });
        let (paying, minted) = paying::Paying::new(now);
        let (joining, uptime) = joining::restore(&config.secret, &bootstrap, &store, now);
        let promotion = Promotion::new(config.server, uptime, now);
        let (auditing, answers_to_audits) = auditing::Auditing::new(auditing::Line {
            overlay: config.overlay,
            protocol: protocol(&config, "store/1"),
            traffic: meter.traffic.clone(),
            rules: dialling.clone(),
        });
        let (relaying, relay_replies, stun_servers) = relaying::Relaying::new(&config);
        let maps = config.map_ports && external.is_empty();
        let (port_mapping, opened) = PortMapping::start(maps, config.scope);
        let mut actor = Actor {
            relaying,
            relay_replies,
            kad_protocol: protocol(&config, "kad/1"),
            swarm,
            here,
            secret: config.secret.clone(),
            node,
            position,
            overlay: config.overlay,
            scope: config.scope,
            joining,
            lists,
            promotion,
            flapping: Default::default(),
            bootstrap,
            external: external.iter().filter_map(to_plain).collect(),
            listen: listening,
            inbound: Default::default(),
            visitors: visitors::Visitors::new(behaviour::places_for_visitors(config.limits.max_connections)),
            served: HashSet::new(),
            writer,
            writing,
            loaded,
            dialling,
            peers: Default::default(),
            table,
            cards: Cards::new(config.overlay, config.scope),
            card: None,
            voice: Voice::new(&config.secret, config.overlay, crate::identity::random()),
            answering: Answering::new(now),
            asking: Default::default(),
            outcomes: Default::default(),
            remembered: Default::default(),
            processes: Default::default(),
            ledger: keeping::ledger(&store),
            paying,
            minted,
            auditing,
            proving: proving::restore(&store, &config.overlay),
            answers_to_audits,
            repair: Repair::new(config.secret.public()),
            intake: Intake::new(now),
            meter,
            commands: inbox,
            events,
            unread: Default::default(),
            publishable,
            status,
            running: Default::default(),
            waiting: Default::default(),
            next_operation: 0,
            operations_at: now,
            connecting: Default::default(),
            feelers: Default::default(),
            slots: Default::default(),
            circuits: circuits::Circuits::new(config.circuits, grants),
            reaching: reaching::Reaching::new(config.scope, !external.is_empty(), now),
            port_mapping,
            opened,
            clocks: super::clocks::Clocks::default(),
            listing: listing::Listing::new(now),
            upkeep: Upkeep::new(server, now),
            store,
        };
        early.into_iter().for_each(|event| actor.swarm_event(event));
        actor.first_view();
        tokio::spawn(actor.run());
        let handle = Overlay {
            node,
            scope: config.scope,
            commands,
            publishable: publishable_receiver,
            status: status_receiver,
            stun_servers,
        };
        Ok((handle, event_receiver))
    }
}

fn parse_all(texts: &[String]) -> Result<Vec<Multiaddr>, StartError> {
    let parse = |text: &String| text.parse().map_err(|e| StartError::Address(format!("{text}: {e}")));
    texts.iter().map(parse).collect()
}

/// Opens every socket; returns the addresses that came of them, wildcards expanded as far as known by now, and what else
/// the swarm told meanwhile: a neighbour is found in that moment and never told of again.
async fn listen_on_all(
    swarm: &mut Swarm<Behaviour>,
    addresses: Vec<Multiaddr>,
) -> Result<(HashSet<Multiaddr>, Vec<SwarmEvent<BehaviourEvent>>), StartError> {
    let refused = |address: &Multiaddr, why: String| StartError::Listen { address: address.to_string(), why };
    let mut open: Vec<(ListenerId, Multiaddr)> = Vec::new();
    // All before the first is opened: a plain socket on `::` would meet our own on `0.0.0.0`.
    for address in &addresses {
        probe(address).map_err(|why| refused(address, why))?;
    }
    for address in addresses {
        match swarm.listen_on(address.clone()) {
            Ok(id) => open.push((id, address)),
            Err(libp2p::TransportError::MultiaddrNotSupported(_)) => {
                return Err(StartError::Address(format!(
                    "{address}: only IP addresses with tcp or udp/quic-v1 are listened on"
                )));
            }
            Err(libp2p::TransportError::Other(error)) => return Err(refused(&address, plain_words(&error))),
        }
    }
    let (mut listening, mut early) = (HashSet::new(), Vec::new());
    let deadline = tokio::time::sleep(LISTEN_TIMEOUT);
    tokio::pin!(deadline);
    let mut waiting: HashSet<ListenerId> = open.iter().map(|(id, _)| *id).collect();
    while !waiting.is_empty() {
        let named = |id: &ListenerId| open.iter().find(|(other, _)| other == id).map(|(_, address)| address);
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    waiting.remove(&listener_id);
                    listening.insert(address);
                }
                SwarmEvent::ListenerError { listener_id, error } => {
                    if let Some(address) = named(&listener_id) {
                        return Err(refused(address, plain_words(&error)));
                    }
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    if let Some(address) = named(&listener_id) {
                        let why = reason.err().map_or_else(|| "closed at once".into(), |error| plain_words(&error));
                        return Err(refused(address, why));
                    }
                }
                event if early.len() < MAX_EARLY => early.push(event),
                _ => {}
            },
            () = &mut deadline => {
                let address = waiting.iter().next().and_then(named).map(ToString::to_string).unwrap_or_default();
                return Err(StartError::Listen { address, why: "no network interface answers".into() });
            }
        }
    }
    Ok((listening, early))
}

/// The TCP transport shares ports (SO_REUSEPORT) for its dials, so that a second node of the same user would get the
/// same port without an error and half of the connections. A plain socket tells.
fn probe(address: &Multiaddr) -> Result<(), String> {
    match to_plain(address) {
        Some(plain) if plain.transport == Transport::Tcp && plain.port != 0 => {
            TcpListener::bind(SocketAddr::new(plain.ip, plain.port)).map(drop).map_err(|error| plain_words(&error))
        }
        _ => Ok(()),
    }
}

/// What a person can do about it.
fn plain_words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let text = chain(error);
    let means = |kind, words: &str| error.kind() == kind || text.contains(words);
    if means(ErrorKind::AddrInUse, "in use") {
        "another program is using this port: stop it or choose another port".into()
    } else if means(ErrorKind::AddrNotAvailable, "assign requested address") {
        "this machine has no such address".into()
    } else if means(ErrorKind::PermissionDenied, "Permission denied") {
        "not permitted: ports below 1024 need extra rights".into()
    } else {
        text
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
