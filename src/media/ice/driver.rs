//! Gives the machine its clock, its sockets and its voice. Effects are carried out at once, under the machine's lock, so
//! that what is told keeps its order; none of them waits. Waiting (for a relay, for the next deadline) is the task's.

use super::machine::{Chosen, Effect, Machine};
use super::{CallId, Lease, Relay, Surroundings, message, routes};
use crate::media::framed::{BoxDuplex, Outbox, PIPE, carry};
use crate::media::gate::Gate;
use crate::media::path::Path;
use crate::media::stream::{Leg, Stream, lock};
use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// How often the routes are looked at: a laptop that changes its network is heard again soon.
const ROUTES_EVERY: Duration = Duration::from_secs(1);

/// The paths of one stream. Lives in it.
pub(in crate::media) struct Driver {
    call: CallId,
    machine: Mutex<Machine>,
    surroundings: Arc<dyn Surroundings>,
    /// `true`: a relay is wanted, `false`: no longer.
    relay_wanted: Mutex<Option<bool>>,
    wake: Arc<Notify>,
    /// Keeps the ports of the relay.
    lease: Mutex<Option<Box<dyn Lease>>>,
    /// A stream of bytes is wanted; carries packets on the one there is.
    pipe_wanted: AtomicBool,
    pipe: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Driver {
    pub(in crate::media) fn new(call: CallId, offers: bool, surroundings: Arc<dyn Surroundings>) -> Driver {
        let now = Instant::now();
        let mut machine = Machine::new(call, offers, surroundings.loopback(), now);
        machine.set_servers(surroundings.stun_servers(), now);
        let wake = Arc::new(Notify::new());
        let (machine, relay_wanted, lease) = (Mutex::new(machine), Mutex::default(), Mutex::default());
        let (pipe_wanted, pipe) = (AtomicBool::new(false), Mutex::default());
        Driver { call, machine, surroundings, relay_wanted, wake, lease, pipe_wanted, pipe }
    }

    pub(in crate::media) fn call(&self) -> CallId {
        self.call
    }

    /// The path in use, if one was found.
    pub(in crate::media) fn chosen(&self) -> Option<Chosen> {
        lock(&self.machine).chosen()
    }

    /// The far end told us something: how much of it could not be used.
    pub(in crate::media) fn deliver(&self, bytes: &Bytes, path: &Path, gate: &Mutex<Gate>) -> usize {
        let unusable = self.change(path, gate, |machine, now| machine.handle_message(bytes, now));
        // A new deadline may be before the one that the task waits for.
        self.wake.notify_one();
        unusable
    }

    /// STUN came to our socket `to`. `false`: it proves nothing, and nothing has changed.
    pub(in crate::media) fn handle_packet(
        &self,
        (from, to): (SocketAddr, SocketAddr),
        packet: &[u8],
        path: &Path,
        gate: &Mutex<Gate>,
    ) -> bool {
        let genuine = self.change(path, gate, |machine, now| machine.handle_packet(from, to, packet, now));
        if genuine {
            self.wake.notify_one();
        }
        genuine
    }

    /// A genuine packet of the stream came to our socket `to`.
    pub(in crate::media) fn handle_media(&self, from: SocketAddr, to: SocketAddr, now: Instant) {
        lock(&self.machine).handle_media(from, to, now);
    }

    fn change<T>(&self, path: &Path, gate: &Mutex<Gate>, change: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let mut machine = lock(&self.machine);
        let result = change(&mut machine, Instant::now());
        while let Some(effect) = machine.poll_effect() {
            match effect {
                Effect::Send(transmit) => {
                    // Lost like any other packet.
                    let _ = path.send_from(transmit.from, &transmit.packet, transmit.to);
                }
                Effect::Tell(bytes) => self.surroundings.tell(bytes),
                Effect::Choose(chosen) => {
                    path.choose(chosen.map(|chosen| (chosen.remote, chosen.local)));
                }
                Effect::AskRelay => self.want_relay(true),
                Effect::ReleaseRelay => self.want_relay(false),
                Effect::GiveUpRelay => {
                    if let Some(lease) = &*lock(&self.lease) {
                        lease.blame();
                    }
                    self.want_relay(false);
                }
                Effect::AskPipe => {
                    self.pipe_wanted.store(true, Relaxed);
                    self.wake.notify_one();
                }
            }
        }
        let mut gate = lock(gate);
        gate.choose(machine.chosen().map(|chosen| chosen.remote).or(path.has_pipe().then_some(PIPE)));
        if machine.is_met() {
            gate.await_path();
        }
        result
    }

    fn want_relay(&self, wanted: bool) {
        *lock(&self.relay_wanted) = Some(wanted);
        self.wake.notify_one();
    }
}

/// Finds paths for a stream until it is gone. Holds it only while at work, as its reader does.
pub(in crate::media) async fn drive(leg: Arc<Leg>, index: usize, stream: Weak<Stream>) {
    let mut opening: Option<BoxFuture<'static, Option<BoxDuplex>>> = None;
    let mut asking: Option<BoxFuture<'static, Option<Relay>>> = None;
    let mut routes_due = tokio::time::interval(ROUTES_EVERY);
    routes_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        let (due, wake) = {
            let Some(stream) = stream.upgrade() else { return };
            let Some(ice) = &stream.ice else { return };
            if std::mem::take(&mut first) {
                ice.change(&stream.rtp, &stream.gate, |machine, now| machine.add_local(stream.rtp.address(), now));
            }
            match lock(&ice.relay_wanted).take() {
                Some(true) => asking = Some(ice.surroundings.relay(ice.call)),
                Some(false) => {
                    asking = None;
                    *lock(&ice.lease) = None;
                }
                None => {}
            }
            if ice.pipe_wanted.swap(false, Relaxed) {
                opening = Some(ice.surroundings.pipe(ice.call));
            }
            let mut machine = lock(&ice.machine);
            (machine.poll_timeout(), ice.wake.clone())
        };
        let wait = due.map(|due| tokio::time::sleep_until(due.into()));
        let (mut granted, mut opened) = (None, None);
        let mut look = false;
        tokio::select! {
            Some(()) = OptionFuture::from(wait) => {}
            () = wake.notified() => {}
            Some(relay) = OptionFuture::from(asking.as_mut()) => granted = Some(relay),
            Some(pipe) = OptionFuture::from(opening.as_mut()) => opened = Some(pipe),
            _ = routes_due.tick() => look = true,
        }
        let Some(stream) = stream.upgrade() else { return };
        let Some(ice) = &stream.ice else { return };
        if let Some(relay) = granted {
            asking = None;
            let ports = relay.as_ref().map(|relay| (relay.ours, relay.theirs.clone()));
            *lock(&ice.lease) = relay.map(|relay| relay.lease);
            ice.change(&stream.rtp, &stream.gate, |machine, now| machine.handle_relay(ports, now));
        }
        if let Some(pipe) = opened {
            opening = None;
            match pipe {
                Some(pipe) => attach(&leg, index, &stream, pipe),
                None => ice.change(&stream.rtp, &stream.gate, |machine, now| machine.handle_pipe(false, now)),
            }
        }
        if look {
            follow_routes(&leg, &stream, ice);
        }
        ice.change(&stream.rtp, &stream.gate, |machine, now| {
            if machine.poll_timeout().is_some_and(|due| now >= due) {
                machine.handle_timeout(now);
            }
        });
    }
}

/// Packets may be carried on `pipe` from now on, instead of one that was there before.
pub(in crate::media) fn attach(leg: &Arc<Leg>, index: usize, stream: &Arc<Stream>, pipe: BoxDuplex) {
    let Some(ice) = &stream.ice else { return };
    let outbox = Arc::new(Outbox::default());
    stream.rtp.set_pipe(outbox.clone());
    ice.change(&stream.rtp, &stream.gate, |machine, now| machine.handle_pipe(true, now));
    let (leg, weak) = (leg.clone(), Arc::downgrade(stream));
    let carrying = tokio::spawn(async move {
        carry(pipe, outbox.clone(), leg, index, weak.clone()).await;
        if let Some(stream) = weak.upgrade()
            && stream.rtp.end_pipe(&outbox)
            && let Some(ice) = &stream.ice
        {
            ice.change(&stream.rtp, &stream.gate, |machine, now| machine.handle_pipe(false, now));
            ice.wake.notify_one();
        }
    });
    *lock(&ice.pipe) = Some(AbortOnDropHandle::new(carrying));
}

/// Opens sockets on addresses that lead to the far end, and lets go of those whose address is gone.
fn follow_routes(leg: &Leg, stream: &Stream, ice: &Driver) {
    let change = |change: &dyn Fn(&mut Machine, Instant)| ice.change(&stream.rtp, &stream.gate, change);
    let (held, far) = {
        let machine = lock(&ice.machine);
        (machine.locals(), machine.named())
    };
    for gone in held.iter().filter(|local| !routes::is_ours(local.ip())) {
        change(&|machine, now| machine.remove_local(*gone, now));
        stream.rtp.remove(*gone);
    }
    let (loopback, servers) = (ice.surroundings.loopback(), ice.surroundings.stun_servers());
    change(&|machine, now| machine.set_servers(servers.clone(), now));
    let usable = |ip: &IpAddr| message::is_possible(SocketAddr::new(*ip, 1), loopback);
    for ip in routes::addresses(&far).into_iter().filter(usable) {
        if held.iter().any(|local| local.ip() == ip) {
            continue;
        }
        if stream.rtp.address().ip() == ip {
            // Its address is back.
            change(&|machine, now| machine.add_local(stream.rtp.address(), now));
        } else if let Ok((socket, port)) = leg.shared.ports.single(ip)
            && let Some(address) = stream.rtp.add(socket, port)
        {
            change(&|machine, now| machine.add_local(address, now));
        }
    }
}
