//! Two behaviours without a network between them: the test delivers frames, stream by stream, in any order that real
//! connections could, cuts connections, and lets time pass.

use super::behaviour::Behaviour;
use super::frame::FrameReader;
use super::handler::{Command, Report};
use super::pipe::Ended;
use super::{Config, Event, peer_id_of};
use crate::clock::UnixMillis;
use crate::identity::{NodeKey, NodeSecret, Seed};
use crate::overlay::{LinkId, LocalUser};
use crate::record::{EntryDraft, UserHeader, sign_bundle};
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};
use bytes::Bytes;
use futures::task::noop_waker_ref;
use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{CloseConnection, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler, ToSwarm};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const OVERLAY: OverlayId = OverlayId([9; 32]);
/// Longer than any test: what must come, comes by itself.
const LONG: Duration = Duration::from_secs(100_000);

struct Person {
    key: NodeKey,
    user: LocalUser,
}

/// Two users on two nodes, the one with the lower node key first. Made once: keys are slow.
fn people() -> &'static [Person; 2] {
    static PEOPLE: OnceLock<[Person; 2]> = OnceLock::new();
    PEOPLE.get_or_init(|| {
        let now = UnixMillis::now();
        let mut people = [(); 2].map(|()| {
            let (secret, user) = (NodeSecret::generate(), Seed::generate().identity());
            let certificate = user.certify(secret.public(), &OVERLAY, 1, now);
            let draft = EntryDraft {
                epoch: 1,
                sequence: now.0,
                issued_at: now,
                expires_at: UnixMillis(now.0 + 3_600_000),
                tombstone: false,
                priority: 1,
                addresses: vec![],
            };
            let bundle = sign_bundle(&UserHeader::from(&user), &certificate, &secret, &OVERLAY, &draft);
            Person { key: secret.public(), user: LocalUser { id: user.id, bundle: bundle.into() } }
        });
        people.sort_by_key(|person| person.key);
        people
    })
}

/// One end of a stream: which end of the world, which connection, which number there.
type StreamEnd = (usize, usize, u64);

struct Stream {
    other: StreamEnd,
    reader: FrameReader,
    /// On the way to this end.
    coming: VecDeque<Report>,
}

struct World {
    ends: [Behaviour; 2],
    peers: [PeerId; 2],
    /// The id of each connection at each end, and whether it stands.
    connections: Vec<([ConnectionId; 2], bool, ConnectedPoint)>,
    streams: BTreeMap<StreamEnd, Stream>,
    next_inbound: u64,
    dials: Vec<(usize, ConnectionId)>,
    links: [Option<LinkId>; 2],
    said: [Vec<Bytes>; 2],
    heard: [Vec<Bytes>; 2],
    ups: [u32; 2],
    ends_seen: Vec<String>,
}

fn point(relayed: bool) -> ConnectedPoint {
    let relay = if relayed { format!("/p2p/{}/p2p-circuit", PeerId::random()) } else { String::new() };
    let address = format!("/ip4/127.0.0.1/tcp/1{relay}").parse().unwrap();
    ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::New }
}

impl World {
    fn new() -> Self {
        Self::doubting(LONG)
    }

    /// Attempts without an answer move to any connection that comes up `hedge` later.
    fn doubting(hedge: Duration) -> Self {
        let people = people();
        let config = Config {
            grace: LONG,
            hello_timeout: LONG,
            silence: LONG,
            answer: LONG,
            idle: LONG,
            doubt: LONG,
            hedge,
            ..Config::default()
        };
        let ends = [0, 1].map(|n| {
            let mut links = Behaviour::new(OVERLAY, people[n].key, AddressScope::Any, config.clone());
            links.serve_user(people[n].user.clone());
            links
        });
        let peers = [0, 1].map(|n| peer_id_of(&people[n].key).unwrap());
        Self {
            ends,
            peers,
            connections: vec![],
            streams: BTreeMap::new(),
            next_inbound: 1,
            dials: vec![],
            links: [None; 2],
            said: Default::default(),
            heard: Default::default(),
            ups: [0; 2],
            ends_seen: vec![],
        }
    }

    fn user(&self, end: usize) -> IdHash {
        people()[end].user.id
    }

    fn connect(&mut self, end: usize) {
        let (local, remote) = (self.user(end), self.user(1 - end));
        self.ends[end].connect(local, remote, people()[1 - end].key, vec![], LONG);
        self.settle_actions();
    }

    /// A connection comes up; `dialled` is the dial that led to it, if any.
    fn establish(&mut self, relayed: bool, dialled: Option<(usize, ConnectionId)>) -> usize {
        let index = self.connections.len();
        let ids = [0, 1].map(|end| match dialled {
            Some((dialler, id)) if dialler == end => id,
            _ => ConnectionId::new_unchecked(1_000_000 + 2 * index + end),
        });
        self.connections.push((ids, true, point(relayed)));
        for (end, connection_id) in ids.into_iter().enumerate() {
            self.ends[end].on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: self.peers[1 - end],
                connection_id,
                endpoint: &self.connections[index].2,
                failed_addresses: &[],
                other_established: 0,
            }));
        }
        self.settle_actions();
        index
    }

    fn cut(&mut self, index: usize) {
        let Some((ids, standing, endpoint)) = self.connections.get_mut(index) else { return };
        if !std::mem::take(standing) {
            return;
        }
        let (ids, endpoint) = (*ids, endpoint.clone());
        self.streams.retain(|(_, connection, _), _| *connection != index);
        for (end, connection_id) in ids.into_iter().enumerate() {
            self.ends[end].on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id: self.peers[1 - end],
                connection_id,
                endpoint: &endpoint,
                cause: None,
                remaining_established: 0,
            }));
        }
        self.settle_actions();
    }

    /// Does what the behaviours ask for, until they ask for nothing.
    fn settle_actions(&mut self) {
        let mut busy = true;
        while std::mem::take(&mut busy) {
            for end in 0..2 {
                let mut cx = Context::from_waker(noop_waker_ref());
                while let Poll::Ready(action) = self.ends[end].poll(&mut cx) {
                    busy = true;
                    self.act(end, action);
                }
            }
        }
    }

    fn act(&mut self, end: usize, action: ToSwarm<Event, Command>) {
        match action {
            ToSwarm::GenerateEvent(event) => self.note(end, event),
            ToSwarm::Dial { opts } => self.dials.push((end, opts.connection_id())),
            ToSwarm::NotifyHandler { handler: NotifyHandler::One(id), event, .. } => {
                let index = self.connections.iter().position(|(ids, standing, _)| *standing && ids[end] == id);
                if let Some(index) = index {
                    self.command(end, index, event);
                }
            }
            // What silence ends, or a circuit that nobody needs any more.
            ToSwarm::CloseConnection { connection: CloseConnection::One(id), .. } => {
                if let Some(index) = self.connections.iter().position(|(ids, ..)| ids[end] == id) {
                    self.cut(index);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn note(&mut self, end: usize, event: Event) {
        match event {
            Event::LinkUp { link, .. } => {
                self.ups[end] += 1;
                self.links[end] = Some(link);
            }
            Event::LinkMessage { message, .. } => self.heard[end].push(message),
            Event::LinkIce { bytes, .. } => {
                assert!(bytes.starts_with(b"ice"));
                self.heard[end].push(bytes);
            }
            Event::LinkLost { .. } => {}
            other => self.ends_seen.push(format!("{end}: {other:?}")),
        }
    }

    fn command(&mut self, end: usize, index: usize, command: Command) {
        match command {
            Command::Open(number) => {
                let inbound = self.next_inbound;
                self.next_inbound += 2;
                let (near, far) = ((end, index, number), (1 - end, index, inbound));
                let coming = VecDeque::from([Report::Opened(number)]);
                self.streams.insert(near, Stream { other: far, reader: FrameReader::default(), coming });
                let coming = VecDeque::from([Report::Incoming(inbound)]);
                self.streams.insert(far, Stream { other: near, reader: FrameReader::default(), coming });
            }
            Command::Send(number, bytes) => {
                let Some(far) = self.streams.get(&(end, index, number)).map(|near| near.other) else { return };
                if let Some(far_stream) = self.streams.get_mut(&far) {
                    far_stream.reader.put(&bytes);
                    let frame = far_stream.reader.take().unwrap().unwrap();
                    far_stream.coming.push_back(Report::Frame(far.2, frame));
                }
            }
            Command::Finish(number) | Command::Reset(number) => {
                if let Some(near) = self.streams.remove(&(end, index, number))
                    && let Some(far) = self.streams.get_mut(&near.other)
                {
                    far.coming.push_back(Report::Ended(near.other.2, Ended::Closed));
                }
            }
            Command::Credit(..) => {}
        }
    }

    /// Delivers the next report of one of the streams that have any. `false`: nothing is on the way.
    fn deliver(&mut self, choice: usize) -> bool {
        let busy: Vec<StreamEnd> =
            self.streams.iter().filter(|(_, stream)| !stream.coming.is_empty()).map(|(end, _)| *end).collect();
        if busy.is_empty() {
            return false;
        }
        let at = busy[choice % busy.len()];
        let Some(report) = self.streams.get_mut(&at).and_then(|stream| stream.coming.pop_front()) else { return false };
        if matches!(report, Report::Ended(..)) {
            self.streams.remove(&at);
        }
        let (end, index, _) = at;
        let id = self.connections[index].0[end];
        self.ends[end].on_connection_handler_event(self.peers[1 - end], id, report);
        self.settle_actions();
        true
    }

    fn answer_dial(&mut self, works: bool) {
        if let Some((end, connection_id)) = self.dials.pop() {
            if works {
                self.establish(false, Some((end, connection_id)));
            } else {
                let failure = DialFailure { peer_id: None, error: &DialError::Aborted, connection_id };
                self.ends[end].on_swarm_event(FromSwarm::DialFailure(failure));
                self.settle_actions();
            }
        }
    }

    fn say(&mut self, end: usize) {
        let Some(link) = self.links[end] else { return };
        // Both kinds share one order.
        let message = match self.said[end].len() {
            count if count % 3 == 1 => {
                let message = Bytes::from(format!("ice {end}:{count}"));
                self.ends[end].send_ice(link, message.clone()).unwrap();
                message
            }
            count => {
                let message = Bytes::from(format!("{end}:{count}"));
                self.ends[end].send(link, message.clone()).unwrap();
                message
            }
        };
        self.said[end].push(message);
        self.settle_actions();
    }

    /// Everything that can be delivered is, dials succeed, time passes.
    fn calm_down(&mut self) {
        let mut now = Instant::now();
        for round in 0..40 {
            while self.deliver(round) {}
            while !self.dials.is_empty() {
                self.answer_dial(true);
            }
            now += Duration::from_secs(2);
            for end in &mut self.ends {
                end.handle_timeout(now);
            }
            self.settle_actions();
        }
    }

    fn carrier(&self, end: usize) -> Option<usize> {
        let link = self.ends[end].links.get(self.links[end]?)?;
        let id = link.current?.connection;
        self.connections.iter().position(|(ids, ..)| ids[end] == id)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn moves_from_a_relayed_to_a_direct_connection() {
    let runtime = runtime();
    let _guard = runtime.enter();
    let mut world = World::new();
    world.establish(true, None);
    world.connect(0);
    while world.deliver(0) {}
    assert_eq!((world.carrier(0), world.carrier(1)), (Some(0), Some(0)));
    (0..5).for_each(|_| world.say(0));
    (0..5).for_each(|_| world.say(1));
    world.deliver(0);
    world.establish(false, None);
    (0..40).for_each(|_| world.say(0));
    while world.deliver(1) {}
    assert_eq!((world.carrier(0), world.carrier(1)), (Some(1), Some(1)));
    assert_eq!((&world.heard[0], &world.heard[1]), (&world.said[1], &world.said[0]));
    // The circuit has served, and costs a third party.
    let look = |world: &mut World| {
        world.ends.iter_mut().for_each(|end| end.handle_timeout(Instant::now()));
        world.settle_actions();
    };
    (0..9).for_each(|_| look(&mut world));
    assert!(world.connections[0].1, "in a moment it may be needed again");
    look(&mut world);
    assert!(!world.connections[0].1 && world.connections[1].1);
    // Direct to direct is no gain.
    world.establish(false, None);
    while world.deliver(0) {}
    assert_eq!(world.carrier(0), Some(1));
    assert_eq!((world.ups, world.ends_seen), ([1, 1], vec![]));
}

#[test]
fn uses_the_other_connection_when_one_dies_without_dialling() {
    let runtime = runtime();
    let _guard = runtime.enter();
    let mut world = World::new();
    world.establish(false, None);
    world.establish(false, None);
    world.connect(1);
    while world.deliver(0) {}
    world.say(0);
    world.cut(0);
    world.say(1);
    while world.deliver(0) {}
    assert!(world.dials.is_empty());
    assert_eq!((world.carrier(0), world.carrier(1)), (Some(1), Some(1)));
    assert_eq!((&world.heard[0], &world.heard[1]), (&world.said[1], &world.said[0]));
}

#[test]
fn a_dial_that_fails_is_the_end_of_a_connect() {
    let runtime = runtime();
    let _guard = runtime.enter();
    let mut world = World::new();
    world.connect(0);
    world.answer_dial(false);
    assert_eq!(world.ends_seen.len(), 1);
    assert!(world.ends_seen[0].contains("ConnectFailed") && world.ends_seen[0].contains("Unreachable"));
    assert!(world.ends[0].is_empty());
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Connect(bool),
    Establish(bool),
    Cut(usize),
    Deliver(usize),
    Say(bool),
    Dial,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Connect),
        2 => any::<bool>().prop_map(Step::Establish),
        2 => (0usize..12).prop_map(Step::Cut),
        20 => any::<usize>().prop_map(Step::Deliver),
        6 => any::<bool>().prop_map(Step::Say),
        2 => Just(Step::Dial),
        2 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Both call each other, connections come and go in the middle of anything, frames of different streams overtake
    /// each other: in the end there is one link, it never went down, and all was heard once and in order.
    #[test]
    fn whatever_connections_do_one_link_carries_all(
        steps in prop::collection::vec(step(), 0..150),
        doubting in any::<bool>(),
    ) {
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut world = World::doubting(if doubting { Duration::ZERO } else { LONG });
        let mut now = Instant::now();
        world.connect(0);
        for step in steps {
            match step {
                Step::Connect(end) => world.connect(usize::from(end)),
                Step::Establish(relayed) if world.connections.len() < 12 => { world.establish(relayed, None); }
                Step::Establish(_) => {}
                Step::Cut(index) => world.cut(index),
                Step::Deliver(choice) => { world.deliver(choice); }
                Step::Say(end) if world.said[usize::from(end)].len() < 200 => world.say(usize::from(end)),
                Step::Say(_) => {}
                Step::Dial => world.answer_dial(true),
                Step::Wait => {
                    now += Duration::from_millis(600);
                    world.ends.iter_mut().for_each(|end| end.handle_timeout(now));
                    world.settle_actions();
                }
            }
        }
        world.calm_down();
        prop_assert_eq!(&world.ends_seen, &Vec::<String>::new());
        prop_assert_eq!(world.ups, [1, 1]);
        prop_assert_eq!([world.ends[0].len(), world.ends[1].len()], [1, 1]);
        prop_assert_eq!(&world.heard[0], &world.said[1]);
        prop_assert_eq!(&world.heard[1], &world.said[0]);
        prop_assert_eq!(world.carrier(0), world.carrier(1));
    }
}
