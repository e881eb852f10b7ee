//! The audio of a headless phone: sends a tone or a file as G.711, records and recognises what it hears.
//!
//! It is a phone, not a part of the relay: it knows one far end, plain RTP, 20 ms packets. Samples flow from a
//! [`Source`] through `g711` to the socket, and from the socket through `g711` into the `ear`.

use super::sdp;
use super::stream::lock;
use super::{MediaError, packet, random_u64};
use bytes::Bytes;
use ear::Ear;
use g711::Law;
use sdp_types::{Media, Session};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

mod ear;
mod g711;
mod tone;
mod wav;

/// Samples a second (RFC 3551: G.711).
const RATE: usize = 8_000;
/// Samples in a packet of 20 ms, the default of G.711 (RFC 3551 §4.2).
const PACKET: usize = 160;
const PACKET_TIME: Duration = Duration::from_millis(20);
/// RFC 4733, under the number that everybody uses for it.
const TELEPHONE_EVENT: u8 = 101;
/// Attempts to get two neighbouring ports from the system.
const BIND_ATTEMPTS: usize = 64;

/// What to send.
#[derive(Clone, Debug)]
pub enum Source {
    Silence,
    /// A sine of so many hertz (20-3,400).
    Tone(f32),
    /// A WAV file (any rate and width; mixed down and resampled to 8 kHz), repeated. At most 30 minutes.
    File(PathBuf),
}

/// What was heard up to now.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Heard {
    pub packets: u64,
    /// Strongest frequency of the last second, Hz, when it stands out.
    pub tone_hz: Option<f32>,
    /// From start to the first packet.
    pub first_packet_ms: Option<u64>,
    pub lost: u64,
}

/// Plain RTP endpoint with PCMU and PCMA and telephone-event. Dropping it stops it; the recording is then complete
/// up to the last second.
pub struct AudioEndpoint {
    address: SocketAddr,
    session_id: u64,
    version: AtomicU64,
    far_end: watch::Sender<Option<FarEnd>>,
    ear: Arc<Mutex<Ear>>,
    _rtcp: UdpSocket,
    tasks: [AbortOnDropHandle<()>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct FarEnd {
    address: SocketAddr,
    law: Law,
    /// False while it holds us.
    listens: bool,
}

impl AudioEndpoint {
    /// Binds an RTP/RTCP pair (ports chosen by the OS) on `ip`, reads the file to play and creates the recording
    /// (8 kHz mono 16-bit WAV, silence for lost packets, valid at any time).
    ///
    /// # Errors
    /// `Io` for files and sockets, with the name of the file.
    pub async fn bind(ip: IpAddr, source: Source, record: Option<PathBuf>) -> Result<AudioEndpoint, MediaError> {
        let files = move || Ok((Voice::new(source)?, record.map(|path| wav::Recorder::create(&path)).transpose()?));
        let files = tokio::task::spawn_blocking(files).await;
        let (voice, recorder) = files.map_err(|error| MediaError::Io(error.to_string()))??;
        let (rtp, rtcp) = bind_pair(ip).await?;
        let address = rtp.local_addr().map_err(io)?;
        let (far_end, speaking) = watch::channel(None);
        let ear = Arc::new(Mutex::new(Ear::new(recorder, Instant::now())));
        let rtp = Arc::new(rtp);
        let mouth = tokio::spawn(speak(rtp.clone(), voice, random_u64()?, speaking.clone()));
        let ears = tokio::spawn(listen(rtp, ear.clone(), speaking));
        Ok(AudioEndpoint {
            address,
            session_id: random_u64()? >> 2,
            version: AtomicU64::new(1),
            far_end,
            ear,
            _rtcp: rtcp,
            tasks: [AbortOnDropHandle::new(mouth), AbortOnDropHandle::new(ears)],
        })
    }

    /// Offers PCMU, PCMA and telephone-event.
    pub fn offer(&self) -> Bytes {
        self.describe(&audio_line(self.address.port(), &[Law::Mu, Law::A], Some(TELEPHONE_EVENT), "sendrecv"))
    }

    /// As [`AudioEndpoint::offer`], with the far end on hold (RFC 3264 §8.4): it is asked to be silent.
    pub fn offer_hold(&self) -> Bytes {
        self.describe(&audio_line(self.address.port(), &[Law::Mu, Law::A], Some(TELEPHONE_EVENT), "sendonly"))
    }

    /// Answers an offer and starts sending.
    ///
    /// # Errors
    /// `BadSdp` when it is none or has no G.711; `NoCrypto` when it wants encryption.
    pub fn answer(&self, offer: &[u8]) -> Result<Bytes, MediaError> {
        let session = sdp::parse(offer)?;
        let (index, far_end, stream) = far_end(&session)?;
        let mut lines = String::new();
        for (at, media) in session.medias.iter().enumerate() {
            if at == index {
                let direction = match (stream.sends, stream.listens) {
                    (true, true) => "sendrecv",
                    (true, false) => "recvonly",
                    (false, true) => "sendonly",
                    (false, false) => "inactive",
                };
                lines += &audio_line(self.address.port(), &[far_end.law], telephone_event(media), direction);
            } else {
                let _ = write!(lines, "m={} 0 {} {}\r\n", media.media, media.proto, media.fmt);
            }
        }
        self.begin(far_end);
        Ok(self.describe(&lines))
    }

    /// Takes the answer to our offer and starts sending.
    ///
    /// # Errors
    /// As [`AudioEndpoint::answer`].
    pub fn start(&self, answer: &[u8]) -> Result<(), MediaError> {
        let (_, far_end, _) = far_end(&sdp::parse(answer)?)?;
        self.begin(far_end);
        Ok(())
    }

    pub fn heard(&self) -> Heard {
        ear::heard(&self.ear, Instant::now())
    }

    /// Stops and completes the recording (valid WAV header even if cut short).
    pub async fn finish(self) -> Heard {
        let heard = self.heard();
        for task in &self.tasks {
            task.abort();
        }
        lock(&self.ear).finish();
        heard
    }

    fn begin(&self, far_end: FarEnd) {
        lock(&self.ear).start(Instant::now());
        self.far_end.send_replace(Some(far_end));
    }

    fn describe(&self, lines: &str) -> Bytes {
        let (ip, id) = (self.address.ip(), self.session_id);
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        format!("v=0\r\no=- {id} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n{lines}").into()
    }
}

fn audio_line(port: u16, laws: &[Law], event: Option<u8>, direction: &str) -> String {
    let types = laws.iter().map(|law| law.payload_type()).chain(event);
    let mut line = format!("m=audio {port} RTP/AVP");
    for payload_type in types {
        let _ = write!(line, " {payload_type}");
    }
    line += "\r\n";
    for law in laws {
        let name = if *law == Law::Mu { "PCMU" } else { "PCMA" };
        let _ = write!(line, "a=rtpmap:{} {name}/8000\r\n", law.payload_type());
    }
    if let Some(event) = event {
        let _ = write!(line, "a=rtpmap:{event} telephone-event/8000\r\na=fmtp:{event} 0-15\r\n");
    }
    let _ = write!(line, "a=ptime:20\r\na={direction}\r\n");
    line
}

/// The first line with speech that we understand: its index, who is there, and what they said.
fn far_end(session: &Session) -> Result<(usize, FarEnd, sdp::Stream), MediaError> {
    let mut secure = false;
    for (index, (media, stream)) in session.medias.iter().zip(sdp::streams(session)).enumerate() {
        let Some(stream) = stream.filter(|_| media.media == "audio") else { continue };
        secure |= stream.secure;
        let law = media.fmt.split(' ').find_map(|fmt| Law::by_payload_type(fmt.parse().ok()?));
        if let Some(law) = law.filter(|_| !stream.secure) {
            // On hold the old way there is no address; nothing will be sent to this one.
            let address = stream.rtp.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
            return Ok((index, FarEnd { address, law, listens: stream.listens && stream.rtp.is_some() }, stream));
        }
    }
    Err(if secure { MediaError::NoCrypto } else { MediaError::BadSdp("no G.711 in it".into()) })
}

fn telephone_event(media: &Media) -> Option<u8> {
    let mut maps = media.attributes.iter().filter(|attribute| attribute.attribute == "rtpmap");
    maps.find_map(|map| {
        let (payload_type, name) = map.value.as_deref()?.split_once(' ')?;
        name.eq_ignore_ascii_case("telephone-event/8000").then(|| payload_type.parse().ok())?
    })
}

async fn bind_pair(ip: IpAddr) -> Result<(UdpSocket, UdpSocket), MediaError> {
    for _ in 0..BIND_ATTEMPTS {
        let rtp = UdpSocket::bind((ip, 0)).await.map_err(io)?;
        let port = rtp.local_addr().map_err(io)?.port();
        if port % 2 == 0
            && let Ok(rtcp) = UdpSocket::bind((ip, port + 1)).await
        {
            return Ok((rtp, rtcp));
        }
    }
    Err(MediaError::NoPorts)
}

fn io(error: std::io::Error) -> MediaError {
    MediaError::Io(error.to_string())
}

/// A source that never ends.
enum Voice {
    Silence,
    Sine(tone::Sine),
    Loop(Vec<i16>, usize),
}

impl Voice {
    fn new(source: Source) -> Result<Voice, MediaError> {
        Ok(match source {
            Source::Silence => Voice::Silence,
            Source::Tone(hertz) => Voice::Sine(tone::Sine::new(hertz.clamp(20.0, 3_400.0))),
            Source::File(path) => Voice::Loop(wav::read(&path)?, 0),
        })
    }

    fn next(&mut self) -> i16 {
        match self {
            Voice::Silence => 0,
            Voice::Sine(sine) => sine.next().unwrap_or(0),
            Voice::Loop(samples, at) => {
                *at = if *at + 1 < samples.len() { *at + 1 } else { 0 };
                samples.get(*at).copied().unwrap_or(0)
            }
        }
    }
}

/// Sends a packet every 20 ms by the clock: deadlines do not depend on how late the one before was, so nothing drifts.
async fn speak(socket: Arc<UdpSocket>, mut voice: Voice, random: u64, far_end: watch::Receiver<Option<FarEnd>>) {
    let (ssrc, mut sequence, mut timestamp) = ((random >> 32) as u32, random as u16, (random >> 8) as u32);
    let (mut packet, mut payload, mut silent) = (Vec::new(), Vec::new(), true);
    let mut ticks = tokio::time::interval(PACKET_TIME);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        timestamp = timestamp.wrapping_add(PACKET as u32);
        let Some(far_end) = (*far_end.borrow()).filter(|far_end| far_end.listens) else {
            silent = true;
            continue;
        };
        payload.clear();
        payload.extend(std::iter::repeat_with(|| far_end.law.encode(voice.next())).take(PACKET));
        let header = (far_end.law.payload_type(), sequence, timestamp, ssrc);
        packet::write_rtp(&mut packet, silent, header, &payload);
        silent = false;
        sequence = sequence.wrapping_add(1);
        let _ = socket.try_send_to(&packet, far_end.address);
    }
}

/// Hears what comes from the far end's address; ports may differ (symmetric RTP is the node's affair).
async fn listen(socket: Arc<UdpSocket>, ear: Arc<Mutex<Ear>>, far_end: watch::Receiver<Option<FarEnd>>) {
    let mut buffer = [0; packet::MAX_PACKET + 1];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let known = far_end
            .borrow()
            .is_some_and(|far_end| far_end.address.ip() == from.ip() || far_end.address.ip().is_unspecified());
        let bytes = buffer.get(..len).unwrap_or_default();
        let header = packet::read(bytes).filter(|header| header.kind == packet::Kind::Rtp);
        if let Some((header, payload)) = header.and_then(|header| Some((header, bytes.get(header.len..)?)))
            && known
        {
            lock(&ear).hear(&header, payload, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
