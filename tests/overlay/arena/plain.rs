//! Plain libp2p-kad 0.49 with its default settings and the usual glue (what identify says goes into the table): the
//! baseline. A swarm runs in a task of its own and takes commands.

use super::super::harness::OVERLAY;
use futures::StreamExt;
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{self, GetRecordOk, QueryId, QueryResult, Quorum};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, identity, noise, tcp, yamux};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

#[derive(NetworkBehaviour)]
struct Plain {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

enum Command {
    Put(Vec<u8>, Vec<u8>, oneshot::Sender<bool>),
    /// Each answer as it comes: who, and the value.
    Get(Vec<u8>, mpsc::UnboundedSender<(PeerId, Vec<u8>)>),
    Peers(oneshot::Sender<usize>),
    Holds(Vec<u8>, oneshot::Sender<Option<Vec<u8>>>),
}

/// Dropping it ends it.
pub struct PlainNode {
    pub address: String,
    pub peer: PeerId,
    commands: mpsc::UnboundedSender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for PlainNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PlainNode {
    /// A server at `ip` that joins through `known`.
    pub async fn start(key: identity::Keypair, ip: Ipv4Addr, known: &[String], server: bool) -> Self {
        let mut swarm = swarm(key, server);
        swarm.listen_on(format!("/ip4/{ip}/tcp/0").parse().unwrap()).expect("a loopback address");
        let peer = *swarm.local_peer_id();
        let listen = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        for known in known {
            let known: Multiaddr = known.parse().expect("an address");
            if let Some(libp2p::multiaddr::Protocol::P2p(peer)) = known.iter().last() {
                swarm.behaviour_mut().kad.add_address(&peer, known);
            }
        }
        let _ = swarm.behaviour_mut().kad.bootstrap();
        let (commands, inbox) = mpsc::unbounded_channel();
        let task = tokio::spawn(run(swarm, inbox));
        Self { address: listen.with_p2p(peer).expect("its own").to_string(), peer, commands, task }
    }

    pub async fn put(&self, key: &[u8], value: &[u8]) -> bool {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Put(key.to_vec(), value.to_vec(), reply));
        answer.await.unwrap_or(false)
    }

    /// Ends when the query does, or when the receiver is dropped.
    pub fn get(&self, key: &[u8]) -> mpsc::UnboundedReceiver<(PeerId, Vec<u8>)> {
        let (found, answers) = mpsc::unbounded_channel();
        let _ = self.commands.send(Command::Get(key.to_vec(), found));
        answers
    }

    pub async fn peers(&self) -> usize {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Peers(reply));
        answer.await.unwrap_or(0)
    }

    pub async fn holds(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Holds(key.to_vec(), reply));
        answer.await.ok().flatten()
    }
}

fn swarm(key: identity::Keypair, server: bool) -> Swarm<Plain> {
    SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let name = format!("/peerline/{}/kad/1", OVERLAY.short());
            let config = kad::Config::new(StreamProtocol::try_from_owned(name).unwrap());
            let here = key.public().to_peer_id();
            let mut kad = kad::Behaviour::with_config(here, MemoryStore::new(here), config);
            kad.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));
            let identify = identify::Behaviour::new(identify::Config::new("/plain".into(), key.public()));
            Plain { kad, identify }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(120)))
        .build()
}

async fn run(mut swarm: Swarm<Plain>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let mut puts: HashMap<QueryId, oneshot::Sender<bool>> = HashMap::new();
    let mut gets: HashMap<QueryId, mpsc::UnboundedSender<(PeerId, Vec<u8>)>> = HashMap::new();
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                Some(Command::Put(key, value, reply)) => {
                    let record = kad::Record::new(key, value);
                    match swarm.behaviour_mut().kad.put_record(record, Quorum::One) {
                        Ok(id) => drop(puts.insert(id, reply)),
                        Err(_) => drop(reply.send(false)),
                    }
                }
                Some(Command::Get(key, found)) => {
                    let id = swarm.behaviour_mut().kad.get_record(key.into());
                    gets.insert(id, found);
                }
                Some(Command::Peers(reply)) => {
                    let peers = swarm.behaviour_mut().kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
                    let _ = reply.send(peers);
                }
                Some(Command::Holds(key, reply)) => {
                    use kad::store::RecordStore;
                    let held = swarm.behaviour_mut().kad.store_mut().get(&key.into()).map(|record| record.value.clone());
                    let _ = reply.send(held);
                }
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(PlainEvent::Identify(identify::Event::Received { peer_id, info, .. }))
                    if info.protocols.iter().any(|name| name.as_ref().ends_with("/kad/1")) =>
                {
                    for address in info.listen_addrs {
                        swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    }
                }
                SwarmEvent::Behaviour(PlainEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. })) => {
                    match result {
                        QueryResult::PutRecord(result) => {
                            if let Some(reply) = puts.remove(&id) {
                                let _ = reply.send(result.is_ok());
                            }
                        }
                        QueryResult::GetRecord(result) => {
                            let Some(found) = gets.get(&id) else { continue };
                            if let Ok(GetRecordOk::FoundRecord(record)) = result
                                && let Some(peer) = record.peer
                            {
                                let _ = found.send((peer, record.record.value));
                            }
                            let unread = found.is_closed();
                            if step.last || unread {
                                gets.remove(&id);
                                if let (false, Some(mut query)) = (step.last, swarm.behaviour_mut().kad.query_mut(&id)) {
                                    query.finish();
                                }
                            }
                        }
                        _ => {}
                    }
                }
                _ => {}
            },
        }
    }
}
