//! The protocols of a node and their settings. The reasons are in SECURITY §2.2 (K1 to K15) and PITFALLS 1-10, 20.

use super::circuits::Grants;
use super::fenced::{Fence, Fenced};
use super::limits;
use super::process::{MAX_PER_PEER, Run};
use super::records::Records;
use super::relaying::Relaying;
use super::{Limits, OverlayConfig, exchange, framed, gate, kept, link, pulse};
use libp2p::identity::Keypair;
use libp2p::kad::{self, BucketInserts, Caching, StoreInserts};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, autonat, dcutr, identify, mdns, relay};
use libp2p_connection_limits::{self as connection_limits, ConnectionLimits};
use libp2p_memory_connection_limits as memory_limits;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// kad asks nothing for us: this node's publications, lookups and walks go over `store/1`. What is left are the
/// bootstraps that kad begins by itself when a peer enters its buckets and that cannot be turned off: each ends with the
/// first request.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(1).unwrap();
const QUERY_TIMEOUT: Duration = Duration::ZERO;

/// A request to one peer at most; the default is 10 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Longest kad message, bytes: a bundle of 12 KiB beside 20 peers with their addresses.
const MAX_PACKET_BYTES: usize = 32 * 1024;

/// Expiry that kad writes where we give none: the longest life of a binding.
const RECORD_TTL: Duration = Duration::from_secs(10_800);

/// How soon an address of ours that is new is tried by others. The default of 5 s is what a first call would wait for.
const TRYING: Duration = Duration::from_secs(1);

/// Peers say who they are again after this; changes are pushed at once.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Handshakes of strangers under way at once (SECURITY §4.10), and our own: those of a lookup and of what comes beside it.
const MAX_PENDING: u32 = 64;
const MAX_DIALLING: u32 = 128;

/// Connections with one peer, of which the oldest are about to be closed ([`MAX_PER_PEER`]).
const MOST_PER_PEER: u32 = 2 * MAX_PER_PEER as u32;

/// No call is silent in signalling for longer.
const LINK_FORGOTTEN: Duration = Duration::from_secs(7 * 86_400);

/// Share of the machine's memory from which on this process opens no more connections: the last line, behind the bounds
/// of everything that grows.
const MAX_MEMORY: f64 = 0.5;

/// The bounds come first: what they deny, the others never see.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: limits::Behaviour,
    pub(super) connection_limits: connection_limits::Behaviour,
    pub(super) memory_limits: memory_limits::Behaviour,
    pub(super) kad: gate::Gate,
    pub(super) store: exchange::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) pulse: pulse::Behaviour,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) kept: kept::Behaviour,
    /// What this node passes on for others, and what others pass on for it.
    pub(super) relaying: relay::Behaviour,
    pub(super) relayed: relay::client::Behaviour,
    /// Direct connections in place of relayed ones.
    pub(super) punching: Fenced<dcutr::Behaviour>,
    /// Whether this node can be dialled: asked of others, and answered to others.
    pub(super) trying: Fenced<autonat::v2::client::Behaviour>,
    pub(super) tried: Toggle<Fenced<autonat::v2::server::Behaviour>>,
    /// `relay/1`: ports for media.
    pub(super) media_relays: exchange::Behaviour,
    pub(super) link: link::Behaviour,
    pub(super) framed: framed::Behaviour,
}

/// Protocol names, all under the overlay's own (DESIGN §5).
pub(super) fn protocol(config: &OverlayConfig, name: &str) -> StreamProtocol {
    let name = format!("/peerline/{}/{name}", config.overlay.short());
    // The constructor refuses only names without a leading slash.
    StreamProtocol::try_from_owned(name).unwrap_or(StreamProtocol::new("/peerline/kad/1"))
}

/// Connections that may come in, of all.
pub(super) fn places_for_visitors(max_connections: u32) -> u32 {
    max_connections - max_connections / 4
}

impl Behaviour {
    pub(super) fn new(
        config: &OverlayConfig,
        key: &Keypair,
        records: Records,
        relayed: relay::client::Behaviour,
        grants: &Grants,
    ) -> Self {
        let here = key.public().to_peer_id();
        let Limits { max_connections, max_connections_per_ip, max_connections_per_subnet, .. } = config.limits;
        let links = link::Config {
            max_links: config.limits.max_links,
            // Four peers at least to take them all.
            max_links_per_peer: (config.limits.max_links / 4).clamp(4, 64),
            // `calls` closes what no call uses; here only what was forgotten ends, never a long call.
            idle: LINK_FORGOTTEN,
            ..link::Config::default()
        };
        let trying = autonat::v2::client::Config::default().with_probe_interval(TRYING);
        let trying = autonat::v2::client::Behaviour::new(StdRng::from_seed(crate::identity::random()), trying);
        let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), here));
        let mdns = mdns.and_then(|mdns| {
            mdns.inspect_err(|error| tracing::warn!(%error, "nodes on this network will not be found by themselves"))
                .ok()
        });
        let bounds = ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING))
            .with_max_pending_outgoing(Some(MAX_DIALLING))
            .with_max_established_per_peer(Some(MOST_PER_PEER))
            // A quarter is for those whom we choose ourselves: strangers cannot fill every slot.
            .with_max_established_incoming(Some(places_for_visitors(max_connections)))
            .with_max_established(Some(max_connections));
        let identify = identify::Config::new(format!("/peerline/{}", config.overlay.short()), key.public())
            .with_agent_version(Run::random().agent())
            .with_interval(IDENTIFY_INTERVAL)
            .with_push_listen_addr_updates(true)
            // The cache would have us dial addresses that nobody checked (K11).
            .with_cache_size(0);
        let now = Instant::now();
        // Behind a NAT nobody's word is worth asking for.
        let public = config.circuits.serve == Some(true) || config.server == Some(true);
        let fenced = |inner| Fenced::new(inner, Fence::WhereItSays, config.scope, now);
        Self {
            limits: limits::Behaviour::new(max_connections_per_ip, max_connections_per_subnet),
            connection_limits: connection_limits::Behaviour::new(bounds),
            memory_limits: memory_limits::Behaviour::with_max_percentage(MAX_MEMORY),
            kad: gate::Gate::new(kademlia(config, here, records), config.scope, now),
            store: exchange::behaviour(config),
            identify: identify::Behaviour::new(identify),
            pulse: pulse::Behaviour::default(),
            mdns: mdns.into(),
            kept: kept::Behaviour::default(),
            relaying: relay::Behaviour::new(here, grants.settings()),
            relayed,
            punching: fenced(dcutr::Behaviour::new(here)),
            trying: Fenced::new(trying, Fence::WhereItSays, config.scope, now),
            tried: public.then(|| Fenced::new(Default::default(), Fence::WhereItCameFrom, config.scope, now)).into(),
            media_relays: Relaying::behaviour(config),
            link: link::Behaviour::new(config.overlay, config.secret.public(), config.scope, links),
            framed: framed::Behaviour::new(protocol(config, "media/1")),
        }
    }
}

fn kademlia(config: &OverlayConfig, here: PeerId, records: Records) -> kad::Behaviour<Records> {
    let mut settings = kad::Config::new(protocol(config, "kad/1"));
    settings
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_record_ttl(Some(RECORD_TTL))
        .set_caching(Caching::Disabled)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_periodic_bootstrap_interval(None)
        .set_parallelism(PARALLELISM)
        .set_query_timeout(QUERY_TIMEOUT)
        .set_substreams_timeout(REQUEST_TIMEOUT)
        .set_max_packet_size(MAX_PACKET_BYTES);
    let mut kad = kad::Behaviour::with_config(here, records, settings);
    // Never by itself: it would turn server on any external address, a relayed one too (PITFALLS 7).
    kad.set_mode(Some(if config.server == Some(true) { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}
