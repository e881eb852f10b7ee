//! Nodes of a test: a real swarm each, with nothing in it but links, driven by a task of its own.

use bytes::Bytes;
use futures::StreamExt;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, tcp, yamux};
use peerline::clock::UnixMillis;
use peerline::identity::{CertificateBytes, NodeKey, NodeSecret, Seed, UserIdentity};
use peerline::overlay::link::{Behaviour, Config, Event};
use peerline::overlay::{LinkError, LinkId, LocalUser};
use peerline::record::{EntryDraft, UserHeader, VerifiedPeerUser, sign_bundle};
use peerline::uri::IdHash;
use peerline::wire::{AddressScope, OverlayId};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub const OVERLAY: OverlayId = OverlayId([7; 32]);
/// Nothing in these tests may take longer.
pub const DEADLINE: Duration = Duration::from_secs(20);
const ONE_HOUR_SECONDS: u64 = 3600;

type Job<B> = Box<dyn FnOnce(&mut Swarm<B>) + Send>;

/// A swarm in its own task.
pub struct Driven<B: NetworkBehaviour> {
    jobs: mpsc::UnboundedSender<Job<B>>,
    pub events: mpsc::UnboundedReceiver<B::ToSwarm>,
    task: JoinHandle<()>,
}

impl<B: NetworkBehaviour + Send> Driven<B> {
    pub async fn start(secret: &NodeSecret, behaviour: B, listen: &str) -> (Self, Multiaddr) {
        let pair = Keypair::ed25519_from_bytes(secret.to_bytes()).unwrap();
        let mut swarm = SwarmBuilder::with_existing_identity(pair)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_quic()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|c| {
                c.with_idle_connection_timeout(Duration::from_secs(2))
                    .with_substream_upgrade_protocol_override(Version::V1Lazy)
            })
            .build();
        swarm.listen_on(listen.parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let (jobs, mut inbox) = mpsc::unbounded_channel::<Job<B>>();
        let (out, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    job = inbox.recv() => match job {
                        Some(job) => job(&mut swarm),
                        None => break,
                    },
                    event = swarm.select_next_some() => {
                        if let SwarmEvent::Behaviour(event) = event {
                            let _ = out.send(event);
                        }
                    }
                }
            }
        });
        (Self { jobs, events, task }, address)
    }

    pub async fn with<R: Send + 'static>(&self, job: impl FnOnce(&mut Swarm<B>) -> R + Send + 'static) -> R {
        let (tell, told) = oneshot::channel();
        let job: Job<B> = Box::new(move |swarm| {
            let _ = tell.send(job(swarm));
        });
        self.jobs.send(job).ok().unwrap();
        told.await.unwrap()
    }
}

impl<B: NetworkBehaviour> Drop for Driven<B> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A person, and the bundle with which a node proves that it may speak for them.
pub fn user() -> UserIdentity {
    Seed::generate().identity()
}

pub fn bundle(user: &UserIdentity, device: &NodeSecret, epoch: u32, at: UnixMillis) -> Bytes {
    entry(user, &user.certify(device.public(), &OVERLAY, epoch, at), device, &OVERLAY, epoch, at)
}

pub fn entry(
    user: &UserIdentity,
    certificate: &CertificateBytes,
    device: &NodeSecret,
    overlay: &OverlayId,
    epoch: u32,
    at: UnixMillis,
) -> Bytes {
    let draft = EntryDraft {
        epoch,
        sequence: at.0,
        issued_at: at,
        expires_at: UnixMillis::from_seconds(at.seconds() + ONE_HOUR_SECONDS),
        tombstone: false,
        priority: 500,
        addresses: vec![],
    };
    sign_bundle(&UserHeader::from(user), certificate, device, overlay, &draft).into()
}

/// A node with one user.
pub struct Node {
    pub key: NodeKey,
    pub peer: PeerId,
    pub user: IdHash,
    pub address: Multiaddr,
    pub swarm: Driven<Behaviour>,
}

pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

impl Node {
    pub async fn start() -> Self {
        Self::start_with(Config::default(), TCP).await
    }

    pub async fn start_with(config: Config, listen: &str) -> Self {
        let (secret, user) = (NodeSecret::generate(), user());
        let proof = bundle(&user, &secret, 1, UnixMillis::now());
        Self::start_as(secret, LocalUser { id: user.id, bundle: proof }, config, listen).await
    }

    /// A node that shows `user`'s bundle, whoever made it.
    pub async fn start_as(secret: NodeSecret, user: LocalUser, config: Config, listen: &str) -> Self {
        Self::start_in(OVERLAY, secret, user, config, listen).await
    }

    pub async fn start_in(
        overlay: OverlayId,
        secret: NodeSecret,
        user: LocalUser,
        config: Config,
        listen: &str,
    ) -> Self {
        let key = secret.public();
        let id = user.id;
        let mut behaviour = Behaviour::new(overlay, key, AddressScope::Any, config);
        behaviour.serve_user(user);
        let (swarm, address) = Driven::start(&secret, behaviour, listen).await;
        let peer = peerline::overlay::link::peer_id_of(&key).unwrap();
        Self { key, peer, user: id, address, swarm }
    }

    /// Starts a connect to `other`'s user at `address`.
    pub async fn call_at(&self, other: &Node, address: Multiaddr) -> LinkId {
        self.call_user(other.user, other.key, address).await
    }

    pub async fn call_user(&self, remote: IdHash, node: NodeKey, address: Multiaddr) -> LinkId {
        let local = self.user;
        self.swarm
            .with(move |s| s.behaviour_mut().connect(local, remote, node, vec![address], Duration::from_secs(8)))
            .await
    }

    pub async fn call(&self, other: &Node) -> LinkId {
        self.call_at(other, other.address.clone()).await
    }

    pub async fn event(&mut self) -> Event {
        loop {
            match self.any_event().await {
                // Said while it is dialled, and again.
                Event::LinkLost { .. } => {}
                event => return event,
            }
        }
    }

    pub async fn any_event(&mut self) -> Event {
        tokio::time::timeout(DEADLINE, self.swarm.events.recv()).await.expect("an event in time").unwrap()
    }

    pub async fn up(&mut self) -> (LinkId, VerifiedPeerUser, bool) {
        match self.event().await {
            Event::LinkUp { link, remote, outbound, local_ip, remote_ip, .. } => {
                assert!(local_ip.is_loopback() && remote_ip.is_loopback(), "{local_ip} {remote_ip}");
                (link, remote, outbound)
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn refused_link(&mut self) -> LinkError {
        match self.event().await {
            Event::ConnectFailed { error, .. } => error,
            other => panic!("{other:?}"),
        }
    }

    pub async fn message(&mut self) -> Bytes {
        match self.event().await {
            Event::LinkMessage { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    pub async fn down(&mut self) -> String {
        match self.event().await {
            Event::LinkDown { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    pub async fn refusal(&mut self) -> peerline::overlay::link::Refusal {
        match self.event().await {
            Event::Refused { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    pub async fn send(&self, link: LinkId, message: impl Into<Bytes>) -> Result<(), LinkError> {
        let message = message.into();
        self.swarm.with(move |s| s.behaviour_mut().send(link, message)).await
    }

    pub async fn links(&self) -> usize {
        self.swarm.with(|s| s.behaviour().len()).await
    }
}
