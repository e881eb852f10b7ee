//! Audits of own records under another name (SECURITY §4.8): a swarm of one question with a key made for it, gone when it
//! is answered. The holder sees another peer id; it sees the same address, which is what a node behind one has.

use super::actor::Actor;
use super::address::{peer_named, to_multiaddr};
use super::dialling::Dialling;
use super::exchange;
use super::meter::Traffic;
use super::transport;
use crate::clock::UnixMillis;
use crate::dht::{Ask, Audit, Audits, Card, Observation, Question, Reply, Said, Signed, Stored};
use crate::identity::random;
use crate::record;
use crate::wire::OverlayId;
use bytes::Bytes;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::request_response::{Event, Message};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{self, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol, Swarm};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// From the dial to the answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Answers that wait for the actor: audits are 10 s apart.
const MAX_ANSWERS: usize = 4;

/// What a holder answered, and its signature.
type Answered = (Option<Bytes>, Signed);

/// An audit, and what was held; `None` when there was no answer.
pub(super) type Audited = (Audit, Option<Answered>);

pub(super) struct Auditing {
    audits: Audits,
    sender: mpsc::Sender<Audited>,
    line: Line,
}

/// What the swarm of an audit is made of.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) overlay: OverlayId,
    pub(super) protocol: StreamProtocol,
    pub(super) traffic: Traffic,
    pub(super) rules: Dialling,
}

impl Auditing {
    pub(super) fn new(line: Line) -> (Self, mpsc::Receiver<Audited>) {
        let (sender, audited) = mpsc::channel(MAX_ANSWERS);
        (Self { audits: Audits::default(), sender, line }, audited)
    }
}

impl Actor {
    /// A holder promised to keep an own record.
    pub(super) fn promised(&mut self, question: &Question, to: &Arc<Card>, reply: &Reply) {
        let (Ask::Store(key, _), Said::Stored { result: Stored::Kept { promise }, sequence }) =
            (&question.ask, &reply.said)
        else {
            return;
        };
        let salt = u64::from_be_bytes(random());
        self.auditing.audits.receipt(*key, to, *sequence, *promise, salt, UnixMillis::now());
        self.proving.proofs.promised(to.node, *key, Signed::from(reply));
    }

    /// Once a second.
    pub(super) fn audit(&mut self) {
        let Some(audit) = self.auditing.audits.poll(UnixMillis::now()) else { return };
        let (line, sender) = (self.auditing.line.clone(), self.auditing.sender.clone());
        tokio::spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, ask(&line, &audit)).await.ok().flatten();
            // The overlay may have stopped.
            let _ = sender.send((audit, answer)).await;
        });
    }

    /// What an audit says is a fact. Silence is none: a stranger may be turned away.
    pub(super) fn audited(&mut self, (audit, answer): Audited) {
        self.meter.audits.inc();
        let (Some((held, said)), Some(peer)) = (answer, peer_named(&audit.holder.node)) else { return };
        let judge = self.judge();
        if held.is_none() {
            self.denied(audit.holder.node, audit.key, said);
        }
        let bundle = held.map(|bytes| record::validate(&bytes, &audit.key, &judge, None));
        let (sequence, now) = (bundle.and_then(Result::ok).map(|bundle| bundle.sequence()), Instant::now());
        let Some(observation) = audit.judge(sequence, judge.now) else { return };
        if observation == Observation::Broken {
            tracing::debug!(%peer, "a holder broke its promise");
            self.meter.refuse("audit: promise broken".into());
        }
        self.ledger.note(peer, observation.fact(), now);
    }
}

/// Asks a holder as somebody else. Only a signed answer is one.
async fn ask(line: &Line, audit: &Audit) -> Option<Answered> {
    let key = Keypair::generate_ed25519();
    let transport = transport::build(&key, &line.traffic, &line.rules).ok()?;
    let settings = swarm::Config::with_tokio_executor();
    let store = exchange::client(line.protocol.clone());
    let mut swarm = Swarm::new(transport, store, key.public().to_peer_id(), settings);
    let peer = peer_named(&audit.holder.node)?;
    let addresses: Vec<Multiaddr> = audit.holder.addresses.iter().map(to_multiaddr).collect();
    swarm.dial(DialOpts::peer_id(peer).addresses(addresses).build()).ok()?;
    let question = Question { nonce: random(), card: None, ask: Ask::Fetch(audit.key), stamp: Bytes::new() };
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => {
                swarm.behaviour_mut().send_request(&peer, question.encode().into());
            }
            SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. } => return None,
            SwarmEvent::Behaviour(Event::OutboundFailure { .. }) => return None,
            SwarmEvent::Behaviour(Event::Message { message: Message::Response { response, .. }, .. }) => {
                let reply = Reply::decode(response.bytes, &question).ok()?;
                reply.verify(&audit.holder.node, &line.overlay).ok()?;
                let signed = Signed::from(&reply);
                return match reply.said {
                    Said::Held(held) => Some((held, signed)),
                    _ => None,
                };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::Card;
    use crate::identity::NodeSecret;
    use crate::overlay::address::to_plain;
    use crate::overlay::{Limits, Overlay, OverlayConfig, behaviour, sample};
    use crate::record::{self, EntryDraft, Judge, UserHeader};
    use crate::store::Store;
    use crate::telemetry::Metrics;
    use crate::wire::AddressScope;

    fn config(bootstrap: Vec<String>) -> OverlayConfig {
        OverlayConfig {
            secret: NodeSecret::generate(),
            overlay: sample::OVERLAY,
            scope: AddressScope::Any,
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            bootstrap,
            mdns: false,
            map_ports: false,
            external: Vec::new(),
            server: Some(true),
            circuits: Default::default(),
            relay: None,
            limits: Limits {
                max_connections: 16,
                max_connections_per_ip: 16,
                max_connections_per_subnet: 16,
                max_links: 4,
                max_records: 100,
            },
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_holder_is_asked_under_another_name() {
        let (holder, _events) =
            Overlay::start(config(vec![]), Store::temporary().unwrap(), Metrics::default()).await.unwrap();
        let listen = holder.status().borrow().listen[0].clone();
        let publisher = config(vec![listen.clone()]);
        let device = publisher.secret.clone();
        let protocol = behaviour::protocol(&publisher, "store/1");
        let (publisher, _events) =
            Overlay::start(publisher, Store::temporary().unwrap(), Metrics::default()).await.unwrap();
        // A user of now: the nodes' clock is the real one.
        let now = UnixMillis::now();
        let user = crate::identity::Seed::generate().identity();
        let certificate = user.certify(device.public(), &sample::OVERLAY, 0, now);
        let draft = EntryDraft {
            epoch: 0,
            sequence: now.0,
            issued_at: now,
            expires_at: UnixMillis(now.0 + 3_600_000),
            tombstone: false,
            priority: 0,
            addresses: Vec::new(),
        };
        let bytes = record::sign_bundle(&UserHeader::from(&user), &certificate, &device, &sample::OVERLAY, &draft);
        let [key, ..] = record::replica_keys(&sample::OVERLAY, &user.id);
        let judge = Judge { overlay: sample::OVERLAY, scope: AddressScope::Any, now };
        let bundle = record::validate(&bytes, &key, &judge, None).unwrap();
        // Until it knows the holder, it is its own.
        let mut status = publisher.status();
        let published = async {
            while !publisher.publish(bundle.clone()).await.is_ok_and(|report| report.copies > 0) {
                status.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), published).await.expect("a copy at the holder");

        let address = to_plain(&listen.parse().unwrap()).unwrap();
        // Only who it is and where count.
        let mut card = Card::sign(&NodeSecret::generate(), &sample::OVERLAY, &[address], now).unwrap();
        card.node = holder.node();
        let (rules, traffic) = (Dialling::new(AddressScope::Any), Traffic::default());
        let line = Line { overlay: sample::OVERLAY, protocol, traffic, rules };
        let mut audits = Audits::default();
        for key in [key, record::RecordKey([7; 32])] {
            audits.receipt(key, &Arc::new(card.clone()), now.0, 1_800, 0, now);
        }
        let first = audits.poll(UnixMillis(now.0 + 400_000)).unwrap();
        assert_eq!(ask(&line, &first).await.map(|(held, _)| held), Some(Some(bytes.into())));
        let second = audits.poll(UnixMillis(now.0 + 420_000)).unwrap();
        assert_eq!(ask(&line, &second).await.map(|(held, _)| held), Some(None), "nothing, and signed");
    }
}
