//! The driver of one stream of a leg: sockets, the task that reads them, and the way from one leg to the other.
//! The judgement is in `gate`; this file moves bytes.

use super::framed::{BoxDuplex, PIPE};
use super::gate::{Gate, Packet, Reason};
use super::ice::{self, Driver};
use super::packet::{self, Header, Kind, MAX_PACKET};
use super::path::Path;
use super::ports::PortGuard;
use super::{LegKind, PathKind, Shared};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

/// Read errors in a row after which a socket counts as broken.
const MAX_ERRORS: u32 = 100;
/// How often a peer hears from us even if nobody speaks: below the 30 s that the strictest NATs keep a mapping for, and
/// several times before the far node gives up on an address that it has heard nothing from.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The echo flips these bits of an SSRC: whoever hears their own SSRC takes it for a loop (RFC 3550 §8.2).
const ECHO_SSRC: u8 = 0xa5;

/// What the tasks of a leg share. Owned by `MediaLeg`; dropping that ends the tasks.
pub(super) struct Leg {
    pub(super) kind: LegKind,
    pub(super) shared: Arc<Shared>,
    pub(super) opened: Instant,
    pub(super) echo: AtomicBool,
    streams: Mutex<Vec<Option<Arc<Stream>>>>,
    partner: Mutex<Weak<Leg>>,
    packets_in: AtomicU64,
    packets_out: AtomicU64,
    refused: AtomicU64,
    /// Milliseconds after `opened`; 0 is never.
    first_in: AtomicU64,
    last_in: AtomicU64,
}

pub(super) struct Stream {
    pub(super) gate: Mutex<Gate>,
    pub(super) port: u16,
    pub(super) rtp: Path,
    /// Phones have a second port for RTCP.
    rtcp: Option<Path>,
    /// Finds the path, towards a node that does so, too.
    pub(super) ice: Option<Driver>,
    /// Last: gives the ports back after the sockets closed.
    _ports: PortGuard,
}

impl Stream {
    pub(super) fn new(
        gate: Gate,
        port: u16,
        (rtp, rtcp): (Path, Option<Path>),
        ice: Option<Driver>,
        ports: PortGuard,
    ) -> Stream {
        Stream { gate: Mutex::new(gate), port, rtp, rtcp, ice, _ports: ports }
    }

    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        lock(&self.gate)
    }

    fn path(&self, kind: Kind) -> &Path {
        match (kind, &self.rtcp) {
            (Kind::Rtcp, Some(rtcp)) => rtcp,
            _ => &self.rtp,
        }
    }

    fn keep_alive(&self) {
        let packet = self.gate().keepalive();
        if let Some((packet, target)) = packet {
            let _ = self.rtp.send(&packet, target);
        }
    }

    fn send(&self, header: &Header, packet: &[u8], now: Instant) -> Result<(), Reason> {
        let (packet, target) = self.gate().outward(header, packet, now)?;
        self.path(header.kind).send(&packet, target).map_err(|_| Reason::Socket)?;
        Ok(())
    }
}

impl Leg {
    pub(super) fn new(kind: LegKind, shared: Arc<Shared>, now: Instant) -> Leg {
        Leg {
            kind,
            shared,
            opened: now,
            echo: AtomicBool::new(false),
            streams: Mutex::default(),
            partner: Mutex::default(),
            packets_in: AtomicU64::new(0),
            packets_out: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            first_in: AtomicU64::new(0),
            last_in: AtomicU64::new(0),
        }
    }

    /// The stream of the `index`th `m=` line is `stream` from now on.
    pub(super) fn set_stream(&self, index: usize, stream: Option<Arc<Stream>>) {
        let mut streams = lock(&self.streams);
        if streams.len() <= index {
            streams.resize(index + 1, None);
        }
        streams[index] = stream;
    }

    /// Closes all streams.
    pub(super) fn clear(&self) {
        lock(&self.streams).clear();
    }

    /// Joins both legs, each of which leaves whomever it was joined to.
    pub(super) fn join(self: &Arc<Leg>, other: &Arc<Leg>) {
        for (leg, with) in [(self, other), (other, self)] {
            let before = std::mem::replace(&mut *lock(&leg.partner), Arc::downgrade(with));
            if let Some(before) = before.upgrade().filter(|before| !Arc::ptr_eq(before, with)) {
                let mut theirs = lock(&before.partner);
                if theirs.upgrade().is_some_and(|partner| Arc::ptr_eq(&partner, leg)) {
                    *theirs = Weak::new();
                }
            }
        }
    }

    pub(super) fn stats(&self) -> super::LegStats {
        let first = self.first_in.load(Relaxed);
        super::LegStats {
            packets_in: self.packets_in.load(Relaxed),
            packets_out: self.packets_out.load(Relaxed),
            refused: self.refused.load(Relaxed),
            first_packet_ms: (first != 0).then_some(first),
            path: self.path(),
        }
    }

    /// The far end told us of its paths.
    pub(super) fn deliver(&self, message: &bytes::Bytes) {
        let streams: Vec<_> = lock(&self.streams).iter().flatten().cloned().collect();
        for stream in streams {
            if let Some(ice) = &stream.ice {
                let unusable = ice.deliver(message, &stream.rtp, &stream.gate);
                (0..unusable).for_each(|_| self.count(Reason::Candidate));
            }
        }
    }

    /// The far end opened a stream of bytes for the sound.
    pub(super) fn take_pipe(self: &Arc<Leg>, pipe: BoxDuplex) {
        let streams = lock(&self.streams).clone();
        let found = streams.iter().enumerate().find_map(|(index, stream)| Some((index, stream.as_ref()?)));
        if let Some((index, stream)) = found.filter(|(_, stream)| stream.ice.is_some()) {
            ice::attach(self, index, stream, pipe);
        }
    }

    fn path(&self) -> PathKind {
        let streams = lock(&self.streams);
        let chosen = streams.iter().flatten().find_map(|stream| stream.ice.as_ref()?.chosen());
        match chosen {
            None if streams.iter().flatten().any(|stream| stream.rtp.has_pipe()) => PathKind::Fallback,
            Some(chosen) if chosen.relayed => PathKind::Relayed,
            Some(_) => PathKind::Direct,
            None => PathKind::Stated,
        }
    }

    /// When the last packet came in.
    pub(super) fn last_in(&self) -> Option<Instant> {
        let last = self.last_in.load(Relaxed);
        (last != 0).then(|| self.opened + Duration::from_millis(last))
    }

    /// A packet arrived on the `index`th stream.
    pub(super) fn arrived(&self, index: usize, stream: &Stream, (from, to): (SocketAddr, SocketAddr), packet: &[u8]) {
        if let Some(ice) = stream.ice.as_ref().filter(|_| ice::is_stun(packet) && to != PIPE) {
            if !ice.handle_packet((from, to), packet, &stream.rtp, &stream.gate) {
                self.count(Reason::Check);
            }
            return;
        }
        let now = Instant::now();
        let judged = stream.gate().inward(from, packet, now);
        let (header, plain) = match judged {
            Ok(judged) => judged,
            Err(reason) => return self.count(reason),
        };
        if let Some(ice) = &stream.ice {
            ice.handle_media(from, to, now);
        }
        // The node is there; that says nothing of the phone behind it. Two phones that vanish must not leave two nodes
        // that keep each other's call alive.
        if self.kind == LegKind::Peer && packet::is_empty_report(&plain) {
            return;
        }
        self.count_in(now);
        let sent = if self.echo.load(Relaxed) {
            self.send_back(stream, header, plain, now)
        } else {
            self.pass_on(index, &header, &plain, now)
        };
        if let Err(reason) = sent {
            self.count(reason);
        }
    }

    fn pass_on(&self, index: usize, header: &Header, packet: &[u8], now: Instant) -> Result<(), Reason> {
        let partner = lock(&self.partner).upgrade().ok_or(Reason::NotReady)?;
        let stream = lock(&partner.streams).get(index).cloned().flatten().ok_or(Reason::NotReady)?;
        stream.send(header, packet, now)?;
        partner.count_out();
        Ok(())
    }

    fn send_back(&self, stream: &Stream, header: Header, packet: Packet<'_>, now: Instant) -> Result<(), Reason> {
        if header.kind == Kind::Rtcp {
            return Ok(());
        }
        let mut packet = packet.to_vec();
        if let Some(byte) = packet.get_mut(11) {
            *byte ^= ECHO_SSRC;
        }
        stream.send(&Header { ssrc: header.ssrc ^ u32::from(ECHO_SSRC), ..header }, &packet, now)?;
        self.count_out();
        Ok(())
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.opened).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    fn count_in(&self, now: Instant) {
        self.last_in.store(self.millis(now), Relaxed);
        let _ = self.first_in.compare_exchange(0, self.millis(now), Relaxed, Relaxed);
        self.packets_in.fetch_add(1, Relaxed);
    }

    fn count_out(&self) {
        self.packets_out.fetch_add(1, Relaxed);
        self.shared.counters.packets.inc();
    }

    fn count(&self, reason: Reason) {
        if reason.is_refusal() {
            self.refused.fetch_add(1, Relaxed);
        }
        self.shared.counters.count(reason);
    }
}

/// Reads the sockets of a stream until it is gone or broken. While waiting the task does not hold the stream, so that
/// the sockets close in the moment when their owner drops them, not when the runtime gets round to ending the task.
pub(super) async fn run(leg: Arc<Leg>, index: usize, stream: Weak<Stream>) {
    // One byte more than the longest packet, so that a cut one is not taken for whole.
    let mut buffer = [0; MAX_PACKET + 1];
    let mut errors = 0;
    let mut keepalive = tokio::time::interval(KEEPALIVE);
    keepalive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while errors < MAX_ERRORS {
        let arrived = std::future::poll_fn(|context| {
            let Some(stream) = stream.upgrade() else { return Poll::Ready(None) };
            let mut arrived = stream.rtp.poll_receive(context, &mut buffer);
            if arrived.is_pending()
                && let Some(rtcp) = &stream.rtcp
            {
                arrived = rtcp.poll_receive(context, &mut buffer);
            }
            arrived.map(|arrived| Some((arrived, stream)))
        });
        let arrived = tokio::select! {
            arrived = arrived => arrived,
            _ = keepalive.tick(), if leg.kind == LegKind::Peer => {
                let Some(stream) = stream.upgrade() else { return };
                stream.keep_alive();
                continue;
            }
        };
        match arrived {
            None => return,
            Some((Ok((len, from, to)), stream)) => {
                errors = 0;
                leg.arrived(index, &stream, (from, to), buffer.get(..len).unwrap_or_default());
            }
            Some((Err(_), _)) => {
                errors += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    tracing::warn!("a media socket broke");
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
