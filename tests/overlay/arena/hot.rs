//! One key that everybody wants (SECURITY E6): clients FETCH it from one real node at a fixed rate, whatever comes back,
//! while another asks the same node for other keys. The node has threads of its own, so that its processor time is told
//! from its clients'.

use super::conspiracy::peer_id;
use super::flood::{Client, ClientEvent, client};
use super::{Ground, figures, secret, setup};
use crate::harness::{User, node, reaches};
use futures::StreamExt;
use libp2p::request_response::{Event, Message, OutboundRequestId};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm};
use peerline::dht::{Ask, Question, Reply, Said};
use peerline::identity::NodeSecret;
use peerline::record::{self, RecordKey};
use peerline::wire::OverlayId;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Barrier;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Threads of the node that is asked are named so.
const THREADS: &str = "holder";

/// Clients send what is due this often, and have so many questions under way at most; more count as not sent.
const TICK: Duration = Duration::from_millis(20);
const UNDER_WAY: usize = 24;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of the client that asks for other keys, each second.
const OTHERS: f64 = 20.0;

#[derive(Clone, Copy)]
pub struct Heat {
    /// Servers that the node knows, so that its answers are of the usual size.
    pub nodes: usize,
    pub clients: usize,
    /// Questions of all clients together, each second.
    pub rate: f64,
    pub life: Duration,
    pub overlay: OverlayId,
    pub seed: u64,
}

#[derive(Default)]
struct Tally {
    sent: usize,
    unsent: usize,
    held: usize,
    /// Of those, with names of other servers beside the bundle.
    with_peers: usize,
    busy: usize,
    other: usize,
    bytes: usize,
    took: Vec<Duration>,
}

impl Tally {
    fn add(&mut self, more: Tally) {
        self.sent += more.sent;
        self.unsent += more.unsent;
        self.held += more.held;
        self.with_peers += more.with_peers;
        self.busy += more.busy;
        self.other += more.other;
        self.bytes += more.bytes;
        self.took.extend(more.took);
    }
}

pub async fn run(heat: Heat) -> Value {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let own = threads.worker_threads(2).thread_name(THREADS).enable_all().build().expect("threads");
    let holder = setup(Ground::Spread.ip(0), secret(heat.seed, b'h', 0), true, heat.overlay);
    let holder = own.spawn(async move { node(&[], holder).await }).await.expect("a node");
    let known = vec![holder.address.clone()];
    let mut others = Vec::new();
    for n in 1..heat.nodes {
        let setup = setup(Ground::Spread.ip(n), secret(heat.seed, b'h', n), true, heat.overlay);
        others.push(node(&known, setup).await);
    }
    reaches(&holder.overlay, |status| status.estimate >= heat.nodes * 4 / 5).await;
    let users: Vec<User> = (0..6).map(|_| User::in_overlay(&heat.overlay)).collect();
    for user in &users {
        // The holder keeps its own copy, whatever the others do.
        let _ = holder.overlay.publish(user.bundle()).await;
    }
    let held = users.len() * 4;
    reaches(&holder.overlay, |status| status.records_held >= held).await;
    let target = peer_id(&holder.secret.public());
    let address: Multiaddr = holder.address.parse().expect("its own");
    let keys = |user: &User| record::replica_keys(&heat.overlay, &user.identity.id).to_vec();

    let (began, before) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = (cpu() - before).as_secs_f64() / began.elapsed().as_secs_f64();

    // All begin in one moment, after their handshakes.
    let ready = Arc::new(Barrier::new(heat.clients + 2));
    let ask = |keys: Vec<RecordKey>, rate: f64| {
        let asker = Asker {
            overlay: heat.overlay,
            target,
            address: address.clone(),
            keys,
            rate,
            life: heat.life,
            ready: ready.clone(),
        };
        tokio::spawn(asker.run())
    };
    let flood: Vec<_> =
        (0..heat.clients).map(|_| ask(keys(&users[0])[..1].to_vec(), heat.rate / heat.clients as f64)).collect();
    let modest = ask(users[1..].iter().flat_map(keys).collect(), OTHERS);
    ready.wait().await;
    let (began, before) = (Instant::now(), cpu());
    let mut hot = Tally::default();
    for client in flood {
        hot.add(client.await.expect("a client"));
    }
    let modest = modest.await.expect("a client");
    let (took, used) = (began.elapsed(), cpu() - before);
    let answers = hot.held + hot.busy + hot.other + modest.sent;
    let work = (used.as_secs_f64() - idle * took.as_secs_f64()).max(0.0);
    let told = holder.overlay.status().borrow().refused.clone();
    let result = json!({
        "cell": "hot key", "nodes": heat.nodes, "clients": heat.clients, "offered_per_s": heat.rate,
        "life_s": heat.life.as_secs_f64(), "sent": hot.sent, "not_sent": hot.unsent,
        "sent_per_s": (hot.sent as f64 / heat.life.as_secs_f64()).round(),
        "answered": figures::rate(hot.held, hot.sent), "with_peers": hot.with_peers, "busy": hot.busy,
        "other": hot.other, "bytes_each": hot.bytes.checked_div(hot.held),
        "times": figures::times(&hot.took),
        "others": figures::rate(modest.held, modest.sent), "others_times": figures::times(&modest.took),
        "holder_cores": used.as_secs_f64() / took.as_secs_f64(), "idle_cores": idle,
        "cpu_us_per_question": (1e6 * work / answers.max(1) as f64).round(), "holder_refused": told,
    });
    own.shutdown_background();
    result
}

struct Asker {
    overlay: OverlayId,
    target: PeerId,
    address: Multiaddr,
    keys: Vec<RecordKey>,
    rate: f64,
    life: Duration,
    ready: Arc<Barrier>,
}

impl Asker {
    async fn run(self) -> Tally {
        let mut swarm = client(&self.overlay);
        // It listens nowhere: nobody dials it back.
        // Of a hundred at once, some find the places for handshakes taken, and come again.
        let connected = async {
            loop {
                swarm.dial(self.address.clone()).expect("an address");
                loop {
                    match swarm.select_next_some().await {
                        SwarmEvent::ConnectionEstablished { .. } => return,
                        SwarmEvent::OutgoingConnectionError { .. } => break,
                        _ => {}
                    }
                }
                tokio::time::sleep(TICK * 10).await;
            }
        };
        timeout(PATIENCE * 10, connected).await.expect("connected");
        let ready = self.ready.wait();
        tokio::pin!(ready);
        loop {
            tokio::select! {
                _ = &mut ready => break,
                _ = swarm.select_next_some() => {}
            }
        }
        let mut tally = Tally::default();
        let mut asked: HashMap<OutboundRequestId, (Instant, Question)> = HashMap::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (began, end) = (Instant::now(), Instant::now() + self.life);
        let mut due = 0;
        while Instant::now() < end + PATIENCE && (Instant::now() < end || !asked.is_empty()) {
            tokio::select! {
                event = swarm.select_next_some() => self.came(event, &mut asked, &mut tally),
                _ = ticks.tick(), if Instant::now() < end => {
                    let now_due = (began.elapsed().as_secs_f64() * self.rate) as usize;
                    for n in due..now_due {
                        self.ask(n, &mut swarm, &mut asked, &mut tally);
                    }
                    due = now_due;
                }
                () = tokio::time::sleep(TICK * 10) => {}
            }
        }
        tally
    }

    fn ask(
        &self,
        n: usize,
        swarm: &mut Swarm<Client>,
        asked: &mut HashMap<OutboundRequestId, (Instant, Question)>,
        tally: &mut Tally,
    ) {
        if asked.len() >= UNDER_WAY {
            tally.unsent += 1;
            return;
        }
        let nonce = NodeSecret::generate().to_bytes();
        let ask = Ask::Fetch(self.keys[n % self.keys.len()]);
        let question = Question { nonce: nonce[..16].try_into().unwrap(), card: None, ask, stamp: bytes::Bytes::new() };
        let id = swarm.behaviour_mut().store.send_request(&self.target, question.encode());
        asked.insert(id, (Instant::now(), question));
        tally.sent += 1;
    }

    fn came(
        &self,
        event: SwarmEvent<ClientEvent>,
        asked: &mut HashMap<OutboundRequestId, (Instant, Question)>,
        tally: &mut Tally,
    ) {
        match event {
            SwarmEvent::Behaviour(ClientEvent::Store(Event::Message {
                message: Message::Response { request_id, response },
                ..
            })) => {
                let Some((since, question)) = asked.remove(&request_id) else { return };
                let bytes = response.len();
                match Reply::decode(response, &question) {
                    Ok(Reply { said: Said::Held(Some(_)), peers, .. }) if since.elapsed() < PATIENCE => {
                        tally.held += 1;
                        tally.with_peers += usize::from(!peers.is_empty());
                        tally.bytes += bytes;
                        tally.took.push(since.elapsed());
                    }
                    Ok(Reply { said: Said::Busy, .. }) => tally.busy += 1,
                    Ok(_) | Err(_) => tally.other += 1,
                }
            }
            SwarmEvent::Behaviour(ClientEvent::Store(Event::OutboundFailure { request_id, .. })) => {
                asked.remove(&request_id);
                tally.other += 1;
            }
            _ => {}
        }
    }
}

/// User and system time of the holder's threads so far.
fn cpu() -> Duration {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let ticks = threads.filter_map(Result::ok).filter_map(|thread| {
        let comm = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(thread.path().join("stat")).ok().filter(|_| comm.starts_with(THREADS))?;
        let fields = stat.rsplit(')').next()?.split_whitespace();
        Some(fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>())
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
