//! One side of a call's media as its owner sees it: descriptions in, descriptions out, and what follows from them for
//! the streams.

use super::framed::BoxDuplex;
use super::gate::Gate;
use super::ice::{self, CallId, Driver, Surroundings};
use super::path::Path;
use super::sdp::{self, Line, Origin, Transport};
use super::srtp::{Key, Suite};
use super::stream::{self, Leg, Stream};
use super::{LegKind, LegPermit, LegStats, MediaError, random_u64};
use bytes::Bytes;
use sdp_types::Session;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

/// One side of a call's media. Dropping it frees its ports and stops its tasks at once.
pub struct MediaLeg {
    leg: Arc<Leg>,
    local_ip: IpAddr,
    /// Where the far end's signalling comes from.
    host: Option<IpAddr>,
    /// What paths are found with, if any are looked for.
    surroundings: Option<Arc<dyn Surroundings>>,
    /// The call that paths are looked for, and whether this end gave it its name.
    call: Option<(CallId, bool)>,
    /// By the index of the `m=` line, which never changes in a session (RFC 3264 §8).
    slots: Vec<Slot>,
    session_id: u64,
    version: u64,
    /// What we said last. It has keys in it.
    last: Option<Zeroizing<Vec<u8>>>,
    accepted: Option<Session>,
    /// Last time that a description came or went.
    negotiated: Instant,
    _permit: LegPermit,
}

/// What is known about one `m=` line.
#[derive(Default)]
struct Slot {
    state: State,
    /// What the far end said last.
    remote: Option<Remote>,
}

#[derive(Default)]
enum State {
    /// Not in use: never was, or rejected.
    #[default]
    Closed,
    /// Accepted, without a port yet.
    Waiting(Box<Gate>),
    Open(Arc<Stream>, #[expect(dead_code, reason = "ends the task when dropped")] AbortOnDropHandle<()>),
}

struct Remote {
    proto: String,
    sends: bool,
    /// The far end's chosen `a=crypto`.
    chosen: Option<(u32, Suite)>,
    /// Our key in the answer: one per description of the far end, however often it is answered (183, then 200).
    answer: Option<Key>,
}

impl MediaLeg {
    pub(super) fn open(kind: LegKind, local_ip: IpAddr, permit: LegPermit) -> Result<MediaLeg, MediaError> {
        if local_ip.is_unspecified() {
            return Err(MediaError::Io("no address of ours towards the far end".into()));
        }
        let now = Instant::now();
        Ok(MediaLeg {
            leg: Arc::new(Leg::new(kind, permit.shared.clone(), now)),
            local_ip,
            host: None,
            surroundings: None,
            call: None,
            slots: Vec::new(),
            // RFC 8866 §5.2 wants a number; 62 bits fit every parser.
            session_id: random_u64()? >> 2,
            version: 1,
            last: None,
            accepted: None,
            negotiated: now,
            _permit: permit,
        })
    }

    /// The far end's signalling comes from `host`: media is taken from there or from where its description says, and a
    /// peer is sent to nowhere else until something genuine has come. To be said before the first description.
    pub fn expect(&mut self, host: IpAddr) {
        self.host = Some(host).filter(|host| !host.is_unspecified());
    }

    /// Looks for paths between this node and the far one, a node as well, from the first description on. To be said
    /// before that. A far end that does not look for paths is sent to where its description says.
    pub fn find_paths(&mut self, surroundings: Arc<dyn Surroundings>) {
        self.surroundings = Some(surroundings).filter(|_| self.leg.kind == LegKind::Peer);
    }

    /// The call that paths are looked for, once a description has come or gone.
    pub fn call(&self) -> Option<CallId> {
        self.call.map(|(call, _)| call)
    }

    /// Where what the far end says of its paths is handed in.
    pub fn paths(&self) -> Paths {
        Paths { leg: Arc::downgrade(&self.leg) }
    }

    /// Takes the description that the far end of *this* leg sent (offer or answer): where to send, which SSRCs, which keys.
    ///
    /// # Errors
    /// `BadSdp`; `NoCrypto` when no stream has a profile and a key that this kind of leg accepts: plain RTP from a
    /// peer, or DTLS-SRTP alone. The leg is as before then.
    pub async fn accept(&mut self, sdp: &[u8]) -> Result<(), MediaError> {
        let session = sdp::parse(sdp)?;
        let kind = self.leg.kind;
        let fits = |suite| kind == LegKind::Phone || suite == Suite::AeadAes128Gcm;
        let usable = |stream: &sdp::Stream| match (kind, stream.secure) {
            (LegKind::Phone, false) => true,
            (LegKind::Peer, false) => false,
            (_, true) => stream.key(fits).is_some(),
        };
        let streams: Vec<_> = sdp::streams(&session).into_iter().map(|stream| stream.filter(usable)).collect();
        if streams.iter().all(Option::is_none) && session.medias.iter().any(|media| media.port != 0) {
            return Err(MediaError::NoCrypto);
        }
        self.make_slots(session.medias.len());
        for (index, remote) in streams.iter().enumerate() {
            match remote {
                Some(remote) => self.accept_stream(index, remote, remote.key(fits))?,
                None => self.close(index),
            }
        }
        // Paths are found while it rings.
        if let Some(index) = self.meet(&streams) {
            self.open_stream(index)?;
        }
        self.accepted = Some(session);
        self.negotiated = Instant::now();
        Ok(())
    }

    /// Turns the *other* leg's description into the offer for this leg's far end: own address and ports, own fresh
    /// keys, profile of this kind; everything unknown is kept.
    ///
    /// # Errors
    /// `BadSdp`, `NoPorts`, `Io`.
    pub async fn describe_offer(&mut self, other: &[u8]) -> Result<Bytes, MediaError> {
        let other = sdp::parse(other)?;
        self.make_slots(other.medias.len());
        let mut lines = Vec::with_capacity(other.medias.len());
        for (index, offered) in sdp::streams(&other).iter().enumerate() {
            lines.push(match offered {
                Some(_) => Some(self.offer_line(index)?),
                None => {
                    self.close(index);
                    None
                }
            });
        }
        self.tell(other, &lines)
    }

    /// Same for an answer to an offer that this leg `accept`ed before.
    ///
    /// # Errors
    /// `BadSdp` (also when nothing was accepted), `NoPorts`, `Io`.
    pub async fn describe_answer(&mut self, other: &[u8]) -> Result<Bytes, MediaError> {
        let other = sdp::parse(other)?;
        self.answer(other)
    }

    /// Packets of this leg go to `other` and back from now on. Each leaves whomever it was joined to.
    pub fn join(&mut self, other: &mut MediaLeg) {
        self.leg.echo.store(false, Ordering::Relaxed);
        other.leg.echo.store(false, Ordering::Relaxed);
        self.leg.join(&other.leg);
    }

    /// Plays back to the far end what it sends (the echo service), and answers its accepted offer.
    ///
    /// # Errors
    /// `BadSdp` when no offer was accepted, `NoPorts`, `Io`.
    pub async fn echo(&mut self) -> Result<Bytes, MediaError> {
        let mut own = self.accepted.clone().ok_or_else(|| MediaError::BadSdp("no offer to answer".into()))?;
        sdp::mirror(&mut own);
        let answer = self.answer(own)?;
        self.leg.echo.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    pub fn stats(&self) -> LegStats {
        self.leg.stats()
    }

    /// True when no packet came for `quiet` (for ending calls whose phone vanished), counted from the last packet or
    /// description. A far end that announced not to send (hold) is not silent.
    pub fn silent_for(&self, quiet: Duration) -> bool {
        let sends = |slot: &Slot| slot.remote.as_ref().is_some_and(|remote| remote.sends);
        let since = self.leg.last_in().map_or(self.negotiated, |last| last.max(self.negotiated));
        self.slots.iter().any(sends) && since.elapsed() >= quiet
    }

    /// The far end looks for paths of this line, and so will we: the first that does, in its first description.
    fn meet(&mut self, streams: &[Option<sdp::Stream>]) -> Option<usize> {
        self.surroundings.as_ref().filter(|_| self.call.is_none())?;
        let named = streams.iter().enumerate().find_map(|(index, stream)| Some((index, stream.as_ref()?.call?)));
        let (index, call) = named.filter(|(index, _)| self.is_first(*index))?;
        self.call = Some((call, false));
        Some(index)
    }

    /// Whether the line is the first with a stream: paths are found for that one, the sound.
    fn is_first(&self, index: usize) -> bool {
        !self.slots.iter().take(index).any(|slot| !matches!(slot.state, State::Closed))
    }

    fn make_slots(&mut self, count: usize) {
        if self.slots.len() < count {
            self.slots.resize_with(count, Slot::default);
        }
    }

    fn accept_stream(
        &mut self,
        index: usize,
        remote: &sdp::Stream,
        key: Option<&(u32, Key)>,
    ) -> Result<(), MediaError> {
        let key = key.filter(|_| remote.secure);
        let (kind, ssrc, host) = (self.leg.kind, self.ssrc(), self.host);
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        match &mut slot.state {
            State::Open(stream, _) => stream.gate().accept(remote, key.map(|(_, key)| key))?,
            State::Waiting(gate) => gate.accept(remote, key.map(|(_, key)| key))?,
            State::Closed => {
                let mut gate = Gate::new(kind, ssrc).expect(host);
                gate.accept(remote, key.map(|(_, key)| key))?;
                slot.state = State::Waiting(Box::new(gate));
            }
        }
        slot.remote = Some(Remote {
            proto: remote.proto.clone(),
            sends: remote.sends,
            chosen: key.map(|(tag, key)| (*tag, key.suite)),
            answer: None,
        });
        Ok(())
    }

    fn close(&mut self, index: usize) {
        self.leg.set_stream(index, None);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot::default();
        }
    }

    fn offer_line(&mut self, index: usize) -> Result<Line, MediaError> {
        let stream = self.open_stream(index)?;
        let mut gate = stream.gate();
        let suite = self.slots.get(index).and_then(|slot| slot.remote.as_ref()?.chosen).map(|(_, suite)| suite);
        let crypto = match gate.secure() {
            true => {
                let key = Key::fresh(suite.unwrap_or(Suite::AeadAes128Gcm))?;
                gate.offer_key(&key)?;
                Some(key.line(1))
            }
            false => None,
        };
        let transport = Transport::Like { secure: gate.secure() };
        let call = stream.ice.as_ref().map(Driver::call).filter(|_| self.call.is_some_and(|(_, ours)| ours));
        Ok(Line { port: stream.port, transport, crypto, muxed: self.leg.kind == LegKind::Peer, call })
    }

    fn answer(&mut self, mut other: Session) -> Result<Bytes, MediaError> {
        let Some(accepted) = &self.accepted else {
            return Err(MediaError::BadSdp("an answer without an offer".into()));
        };
        // RFC 3264 §6: a line for each line of the offer. Those that the other side left out it does not want.
        other.medias.truncate(accepted.medias.len());
        let missing = accepted.medias.iter().skip(other.medias.len()).cloned();
        let missing: Vec<_> = missing.map(|media| sdp_types::Media { port: 0, ..media }).collect();
        other.medias.extend(missing);
        let mut lines = Vec::with_capacity(other.medias.len());
        for (index, media) in other.medias.iter().enumerate() {
            // Both sides have to want the stream: ours by its offer, the other by not rejecting it now.
            let wanted = media.port != 0 && self.slots.get(index).is_some_and(|slot| slot.remote.is_some());
            lines.push(match wanted {
                true => self.answer_line(index)?,
                false => {
                    self.close(index);
                    None
                }
            });
        }
        self.tell(other, &lines)
    }

    fn answer_line(&mut self, index: usize) -> Result<Option<Line>, MediaError> {
        let stream = self.open_stream(index)?;
        let Some(remote) = self.slots.get_mut(index).and_then(|slot| slot.remote.as_mut()) else { return Ok(None) };
        let crypto = match (remote.chosen, &remote.answer) {
            (None, _) => None,
            (Some((tag, _)), Some(key)) => Some(key.line(tag)),
            (Some((tag, suite)), None) => {
                let key = Key::fresh(suite)?;
                stream.gate().answer_key(&key, Instant::now())?;
                let line = key.line(tag);
                remote.answer = Some(key);
                Some(line)
            }
        };
        let transport = Transport::As(remote.proto.clone());
        Ok(Some(Line { port: stream.port, transport, crypto, muxed: self.leg.kind == LegKind::Peer, call: None }))
    }

    /// Our own SSRC: random like the session id, of which it is a part.
    fn ssrc(&self) -> u32 {
        self.session_id as u32
    }

    /// The stream of a line, with sockets from now on.
    fn open_stream(&mut self, index: usize) -> Result<Arc<Stream>, MediaError> {
        let (ssrc, host) = (self.ssrc(), self.host);
        if let Some(State::Open(stream, _)) = self.slots.get(index).map(|slot| &slot.state) {
            return Ok(stream.clone());
        }
        let ice = self.path_finder(index)?;
        let slot = self.slots.get_mut(index).ok_or(MediaError::NoPorts)?;
        let io = |error: std::io::Error| MediaError::Io(error.to_string());
        let ports = &self.leg.shared.ports;
        let (rtp, rtcp, guard) = match self.leg.kind {
            LegKind::Phone => ports.pair(self.local_ip).map(|(rtp, rtcp, guard)| (rtp, Some(rtcp), guard))?,
            LegKind::Peer => ports.single(self.local_ip).map(|(rtp, guard)| (rtp, None, guard))?,
        };
        let port = rtp.local_addr().map_err(io)?.port();
        let rtp = Path::udp(rtp).map_err(io)?;
        let rtcp = rtcp.map(Path::udp).transpose().map_err(io)?;
        let gate = match std::mem::take(&mut slot.state) {
            State::Waiting(gate) => *gate,
            _ => Gate::new(self.leg.kind, ssrc).expect(host),
        };
        let stream = Arc::new(Stream::new(gate, port, (rtp, rtcp), ice, guard));
        let (leg, weak) = (self.leg.clone(), Arc::downgrade(&stream));
        let task = tokio::spawn(async move {
            tokio::join!(stream::run(leg.clone(), index, weak.clone()), ice::drive(leg, index, weak));
        });
        slot.state = State::Open(stream.clone(), AbortOnDropHandle::new(task));
        self.leg.set_stream(index, Some(stream.clone()));
        self.leg.shared.publish();
        Ok(stream)
    }

    /// What finds paths for a line that opens now, if it is the one.
    fn path_finder(&mut self, index: usize) -> Result<Option<Driver>, MediaError> {
        let Some(surroundings) = self.surroundings.clone().filter(|_| self.is_first(index)) else { return Ok(None) };
        let (call, ours) = match (self.call, &self.accepted) {
            (Some(call), _) => call,
            (None, None) => {
                let mut name = [0; 16];
                getrandom::fill(&mut name).map_err(|error| MediaError::Io(error.to_string()))?;
                (CallId(name), true)
            }
            // The far end offered, and looks for none.
            (None, Some(_)) => return Ok(None),
        };
        self.call = Some((call, ours));
        Ok(Some(Driver::new(call, ours, surroundings)))
    }

    /// Writes our description. The version rises when anything else changed (RFC 3264 §8).
    fn tell(&mut self, other: Session, lines: &[Option<Line>]) -> Result<Bytes, MediaError> {
        let mut origin = Origin { ip: self.local_ip, session_id: self.session_id, version: self.version };
        let mut told = sdp::write(&sdp::rewrite(&other, &origin, lines))?;
        if self.last.as_ref().is_some_and(|last| **last != told) {
            self.version += 1;
            origin.version = self.version;
            told = sdp::write(&sdp::rewrite(&other, &origin, lines))?;
        }
        self.last = Some(Zeroizing::new(told.clone()));
        self.negotiated = Instant::now();
        Ok(told.into())
    }
}

#[cfg(test)]
impl MediaLeg {
    /// Of its first stream.
    pub(super) fn leg_address(&self) -> std::net::SocketAddr {
        let open = self.slots.iter().find_map(|slot| match &slot.state {
            State::Open(stream, _) => Some(stream.rtp.address()),
            State::Closed | State::Waiting(_) => None,
        });
        open.expect("a stream")
    }
}

/// Where what the far end of a leg says of its paths is handed in. Does not keep the leg.
#[derive(Clone)]
pub struct Paths {
    leg: Weak<Leg>,
}

impl Paths {
    /// Reads what came on the link of the call. Whatever it is: it is bounded, checked, and no error of this end.
    pub fn deliver(&self, message: &Bytes) {
        if let Some(leg) = self.leg.upgrade() {
            leg.deliver(message);
        }
    }

    /// The far end opened a stream of bytes for this call (`media/1`), which it has named.
    pub fn take_pipe(&self, pipe: BoxDuplex) {
        if let Some(leg) = self.leg.upgrade() {
            leg.take_pipe(pipe);
        }
    }
}

impl Drop for MediaLeg {
    fn drop(&mut self) {
        self.leg.clear();
        self.slots.clear();
    }
}
