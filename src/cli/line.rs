//! A phone line without a phone: registers with a node over real SIP, sends a tone or a file, hears and records.
//! Used by `call`, `answer` and `demo`.

use crate::clock::UnixMillis;
use crate::media::MediaError;
use crate::media::audio::{AudioEndpoint, Heard, Source};
use crate::sip::softphone::{PhoneEvent, Softphone, SoftphoneConfig, SoftphoneError};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long un-registering may take on the way out.
const CLOSE: Duration = Duration::from_secs(1);

/// What is sent and kept during a call.
#[derive(Clone, Debug)]
pub(super) struct Audio {
    pub source: Source,
    pub record: Option<PathBuf>,
    /// From the answer to our hang-up; `None`: the other side hangs up.
    pub duration: Option<Duration>,
}

/// How a call went, for people and for machines.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CallReport {
    /// Dialled, or who called.
    pub who: String,
    pub answered: bool,
    pub status: u16,
    pub words: String,
    /// When the INVITE left, or came (Unix time): with the two reports of a call it says when both sides heard.
    pub at_ms: u64,
    /// Milliseconds from INVITE to 180, to 200, to the first voice packet.
    pub ring_ms: Option<u64>,
    pub answer_ms: Option<u64>,
    pub voice_ms: Option<u64>,
    /// Strongest tone of the last second, when one stands out.
    pub tone_hz: Option<f32>,
    pub packets: u64,
    pub lost: u64,
    /// From answer to end.
    pub seconds: f64,
    /// Who hung up: "here" or "there".
    pub ended_by: Option<&'static str>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error(transparent)]
    Phone(#[from] SoftphoneError),
    #[error("audio: {0}")]
    Audio(#[from] MediaError),
    #[error("the phone line ended")]
    Gone,
}

/// One registered account, one call at a time.
pub(super) struct Line {
    phone: Softphone,
    events: mpsc::Receiver<PhoneEvent>,
    /// Where its audio lives: the address that the node sees it at.
    ip: IpAddr,
}

impl Line {
    pub async fn register(server: SocketAddr, account: &str, password: &str) -> Result<Self, LineError> {
        let config =
            SoftphoneConfig { server, account: account.to_owned(), password: password.to_owned(), display: None };
        let (phone, events) = Softphone::register(config).await?;
        // The node runs on this machine: the address it listens on is one of ours.
        Ok(Self { phone, events, ip: server.ip() })
    }

    /// Calls `who` and stays until the duration is over or the other side ends it. When `stop` is ready, hangs up.
    pub async fn call(
        &mut self,
        who: &str,
        audio: &Audio,
        stop: impl Future<Output = ()>,
    ) -> Result<CallReport, LineError> {
        let endpoint = AudioEndpoint::bind(self.ip, audio.source.clone(), audio.record.clone()).await?;
        let start = Instant::now();
        let mut report = CallReport::new(who);
        self.phone.call(who, endpoint.offer()).await;
        tokio::pin!(stop);
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event.ok_or(LineError::Gone)?,
                () = &mut stop => {
                    self.phone.hang_up().await;
                    endpoint.finish().await;
                    return Ok(report.failed(487, "given up"));
                }
            };
            match event {
                PhoneEvent::Ringing { .. } => report.ring_ms = report.ring_ms.or(Some(millis(start))),
                PhoneEvent::Answered { sdp } => {
                    report.answered = true;
                    report.answer_ms = Some(millis(start));
                    if let Err(error) = endpoint.start(&sdp) {
                        self.phone.hang_up().await;
                        return Err(error.into());
                    }
                    break;
                }
                PhoneEvent::Failed { cause } => {
                    endpoint.finish().await;
                    return Ok(report.failed(cause.status, &cause.words));
                }
                PhoneEvent::Ended { cause } => {
                    endpoint.finish().await;
                    let (status, words) = cause.map_or((487, String::new()), |c| (c.status, c.words));
                    return Ok(report.failed(status, &words));
                }
                // A line is in one call at a time; a second caller hears "busy" from the phone itself.
                PhoneEvent::Incoming { .. } => {}
            }
        }
        self.talk(endpoint, audio, report, stop).await
    }

    /// Waits for a call, rings, answers after `after`, and stays as `call` does. `None` when `stop` is ready first.
    pub async fn answer(
        &mut self,
        audio: &Audio,
        after: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<CallReport>, LineError> {
        tokio::pin!(stop);
        let (from, offer) = loop {
            let event = tokio::select! {
                event = self.events.recv() => event.ok_or(LineError::Gone)?,
                () = &mut stop => return Ok(None),
            };
            if let PhoneEvent::Incoming { from, offer, .. } = event {
                break (from, offer);
            }
        };
        let start = Instant::now();
        let mut report = CallReport::new(&from);
        self.phone.ring().await;
        report.ring_ms = Some(millis(start));
        let ringing = tokio::time::sleep(after);
        tokio::select! {
            () = ringing => {}
            event = self.events.recv() => match event.ok_or(LineError::Gone)? {
                PhoneEvent::Ended { cause } => {
                    let (status, words) = cause.map_or((487, String::new()), |c| (c.status, c.words));
                    return Ok(Some(report.failed(status, &words)));
                }
                PhoneEvent::Incoming { .. }
                | PhoneEvent::Ringing { .. }
                | PhoneEvent::Answered { .. }
                | PhoneEvent::Failed { .. } => {}
            },
            () = &mut stop => {
                self.phone.reject(480).await;
                return Ok(None);
            }
        }
        let endpoint = AudioEndpoint::bind(self.ip, audio.source.clone(), audio.record.clone()).await?;
        let sdp = match endpoint.answer(&offer) {
            Ok(sdp) => sdp,
            Err(error) => {
                self.phone.reject(488).await;
                tracing::debug!(%error, "an offer that this line cannot answer");
                return Ok(Some(report.failed(488, "Not Acceptable Here")));
            }
        };
        self.phone.answer(sdp).await;
        report.answered = true;
        report.answer_ms = Some(millis(start));
        self.talk(endpoint, audio, report, stop).await.map(Some)
    }

    async fn talk(
        &mut self,
        endpoint: AudioEndpoint,
        audio: &Audio,
        mut report: CallReport,
        stop: impl Future<Output = ()>,
    ) -> Result<CallReport, LineError> {
        let start = Instant::now();
        let over = async {
            match audio.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(stop, over);
        report.ended_by = Some(loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(PhoneEvent::Ended { .. } | PhoneEvent::Failed { .. }) | None => break "there",
                    Some(PhoneEvent::Incoming { .. } | PhoneEvent::Ringing { .. } | PhoneEvent::Answered { .. }) => {}
                },
                () = &mut over => break "here",
                () = &mut stop => break "here",
            }
        });
        // What was heard up to the end, not the silence after it.
        let heard = endpoint.heard();
        if report.ended_by == Some("here") {
            self.phone.hang_up().await;
        }
        report.seconds = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        endpoint.finish().await;
        report.status = 200;
        "OK".clone_into(&mut report.words);
        report.hear(&heard);
        Ok(report)
    }

    pub async fn close(self) {
        self.phone.close(CLOSE).await;
    }
}

impl CallReport {
    fn new(who: &str) -> Self {
        Self {
            who: who.to_owned(),
            answered: false,
            status: 0,
            words: String::new(),
            at_ms: UnixMillis::now().0,
            ring_ms: None,
            answer_ms: None,
            voice_ms: None,
            tone_hz: None,
            packets: 0,
            lost: 0,
            seconds: 0.0,
            ended_by: None,
        }
    }

    fn failed(mut self, status: u16, words: &str) -> Self {
        self.status = status;
        words.clone_into(&mut self.words);
        self
    }

    fn hear(&mut self, heard: &Heard) {
        self.voice_ms = heard.first_packet_ms.map(|after| self.answer_ms.unwrap_or(0) + after);
        self.tone_hz = heard.tone_hz;
        self.packets = heard.packets;
        self.lost = heard.lost;
    }

    /// Heard a tone of about `hertz`.
    pub fn heard_tone(&self, hertz: f32) -> bool {
        // G.711 and the window of one second put the peak within a few hertz.
        self.tone_hz.is_some_and(|heard| (heard - hertz).abs() <= 10.0)
    }

    /// In plain words.
    pub fn in_words(&self) -> String {
        if !self.answered {
            return format!("not answered: {} {}", self.status, self.words);
        }
        let ms = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v} ms"));
        let tone = self.tone_hz.map_or_else(|| "no tone".to_owned(), |hz| format!("a tone of {hz:.0} Hz"));
        format!(
            "{:.1} s; ringing after {}, answered after {}, voice after {}; heard {tone} in {} packets, {} lost",
            self.seconds,
            ms(self.ring_ms),
            ms(self.answer_ms),
            ms(self.voice_ms),
            self.packets,
            self.lost
        )
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
