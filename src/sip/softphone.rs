//! A headless SIP phone: registers with a node over real UDP and places or answers calls. Used by `demo`, `call`,
//! `answer` and the end-to-end tests. Signalling only: SDP comes from and goes to the caller of this module.
//!
//! `line` is the phone as a pure machine; this file is its face and its driver, which owns the socket and the clock.
//! It shares no message or transaction code with the node's side, so that each tests the other.

mod incoming;
mod line;
mod message;
mod outgoing;
mod registering;
#[cfg(test)]
mod tests;
mod timers;

use super::Cause;
use bytes::Bytes;
use line::{Line, LineEvent};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

/// How long `register` waits: a REGISTER may be held up by a disk or a busy machine, not longer.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// How long a dropped phone tries to un-register.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Events and commands that may wait.
const QUEUE: usize = 64;
/// The largest datagram there is.
const DATAGRAM_BYTES: usize = 65_535;

#[derive(Clone)]
pub struct SoftphoneConfig {
    /// The node's SIP UDP address.
    pub server: SocketAddr,
    pub account: String,
    pub password: String,
    /// Display name shown with calls.
    pub display: Option<String>,
}

/// Without the password.
impl std::fmt::Debug for SoftphoneConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SoftphoneConfig({} at {})", self.account, self.server)
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum SoftphoneError {
    #[error("the SIP account was refused ({0})")]
    Refused(u16),
    #[error("no answer from the node's SIP port")]
    Timeout,
    #[error("{0}")]
    Io(String),
}

#[derive(Debug)]
pub enum PhoneEvent {
    Incoming {
        from: String,
        display: Option<String>,
        offer: Bytes,
    },
    /// 180/183.
    Ringing {
        status: u16,
        sdp: Option<Bytes>,
    },
    Answered {
        sdp: Bytes,
    },
    Failed {
        cause: Cause,
    },
    /// The far end hung up (or cancelled).
    Ended {
        cause: Option<Cause>,
    },
}

/// One line: at most one call at a time. Commands are queued in order and none waits on the network; a command that
/// does not fit the state of the call (an answer after the caller gave up) does nothing.
pub struct Softphone {
    commands: mpsc::Sender<Command>,
}

enum Command {
    Call(String, Bytes),
    Ring,
    Answer(Bytes),
    Reject(u16),
    HangUp,
    Close(oneshot::Sender<()>),
}

impl Softphone {
    /// Binds a UDP port on the server's interface and registers; keeps the registration fresh until dropped. The
    /// receiver must be read: while it is full, the phone stops listening.
    ///
    /// # Errors
    /// `Refused` with the node's status (401: wrong account or password), `Timeout` after 10 s, `Io` when there is no
    /// socket to be had.
    pub async fn register(config: SoftphoneConfig) -> Result<(Softphone, mpsc::Receiver<PhoneEvent>), SoftphoneError> {
        let io = |error: std::io::Error| SoftphoneError::Io(error.to_string());
        let any: SocketAddr = if config.server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
        let socket = UdpSocket::bind(any).await.map_err(io)?;
        // Connected: the kernel picks our address on that interface, and drops what others send.
        socket.connect(config.server).await.map_err(io)?;
        let local = socket.local_addr().map_err(io)?;
        let seed = getrandom::u64().map_err(|error| SoftphoneError::Io(error.to_string()))?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (events, phone_events) = mpsc::channel(QUEUE);
        let (first, registered) = oneshot::channel();
        let mut line = Line::new(config, local, seed);
        line.register(Instant::now());
        let driver =
            Driver { line, socket, inbox, events, waiting: VecDeque::new(), first: Some(first), closing: None };
        tokio::spawn(driver.run());
        match tokio::time::timeout(REGISTER_WITHIN, registered).await {
            Ok(Ok(Ok(()))) => Ok((Softphone { commands }, phone_events)),
            Ok(Ok(Err(408))) | Err(_) => Err(SoftphoneError::Timeout),
            Ok(Ok(Err(status))) => Err(SoftphoneError::Refused(status)),
            Ok(Err(_)) => Err(SoftphoneError::Io("the phone stopped".to_owned())),
        }
    }

    /// INVITE `who` (anything one could dial: number, contact, extension, `echo`). Digest is answered by itself.
    pub async fn call(&self, who: &str, offer: Bytes) {
        self.send(Command::Call(who.to_owned(), offer)).await;
    }

    /// 180 to the caller.
    pub async fn ring(&self) {
        self.send(Command::Ring).await;
    }

    /// 200 with `sdp`, repeated until it is acknowledged. The same `sdp` answers later re-INVITEs.
    pub async fn answer(&self, sdp: Bytes) {
        self.send(Command::Answer(sdp)).await;
    }

    /// Refuses the call with `status` (300 to 699).
    pub async fn reject(&self, status: u16) {
        self.send(Command::Reject(status)).await;
    }

    /// CANCEL, BYE or 603, whatever the call needs. No event of this call follows.
    pub async fn hang_up(&self) {
        self.send(Command::HangUp).await;
    }

    /// Hangs up, un-registers and closes, waiting at most `deadline`.
    pub async fn close(self, deadline: Duration) {
        let (done, closed) = oneshot::channel();
        self.send(Command::Close(done)).await;
        // Whether in time or not, dropping `self` ends the phone.
        let _ = tokio::time::timeout(deadline, closed).await;
    }

    async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("a command for a phone that has stopped");
        }
    }
}

/// The task behind a phone.
struct Driver {
    line: Line,
    socket: UdpSocket,
    inbox: mpsc::Receiver<Command>,
    events: mpsc::Sender<PhoneEvent>,
    /// Events that did not fit yet; while there are any, nothing is read from the network.
    waiting: VecDeque<PhoneEvent>,
    first: Option<oneshot::Sender<Result<(), u16>>>,
    closing: Option<Closing>,
}

struct Closing {
    done: Option<oneshot::Sender<()>>,
    until: Option<Instant>,
    unregistered: bool,
}

impl Driver {
    async fn run(mut self) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let events = self.events.clone();
        loop {
            self.flush().await;
            if self.is_over(Instant::now()) {
                return;
            }
            let closing = self.closing.as_ref().and_then(|closing| closing.until);
            let wake = [self.line.poll_timeout(), closing].into_iter().flatten().min();
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                command = self.inbox.recv(), if self.listens() => self.command(command, Instant::now()),
                received = self.socket.recv(&mut buffer), if self.waiting.is_empty() => match received {
                    Ok(length) => {
                        if let Some(datagram) = buffer.get(..length) {
                            self.line.handle_datagram(datagram, Instant::now());
                        }
                    }
                    // The node is away (ICMP); the timers try again.
                    Err(error) => tracing::debug!(%error, "nothing received"),
                },
                permit = events.reserve(), if !self.waiting.is_empty() => match (permit, self.waiting.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    // Nobody listens any more; the phone goes on until it is dropped.
                    (Err(_), _) | (_, None) => self.waiting.clear(),
                },
                () = tokio::time::sleep_until(wake.into()) => self.line.handle_timeout(Instant::now()),
            }
        }
    }

    /// Once the handle was dropped, its channel has nothing more to say.
    fn listens(&self) -> bool {
        self.closing.as_ref().is_none_or(|closing| closing.until.is_none())
    }

    fn command(&mut self, command: Option<Command>, now: Instant) {
        match command {
            Some(Command::Call(who, offer)) => self.line.dial(&who, offer, now),
            Some(Command::Ring) => self.line.ring(now),
            Some(Command::Answer(sdp)) => self.line.answer(sdp, now),
            Some(Command::Reject(status)) => self.line.reject(status, now),
            Some(Command::HangUp) => self.line.hang_up(now),
            Some(Command::Close(done)) => self.leave(Some(done), now),
            None => {
                if self.closing.is_none() {
                    self.leave(None, now);
                }
                if let Some(closing) = &mut self.closing {
                    closing.until = Some(now + LAST_WORDS);
                }
            }
        }
    }

    fn leave(&mut self, done: Option<oneshot::Sender<()>>, now: Instant) {
        self.line.hang_up(now);
        self.line.unregister(now);
        self.closing = Some(Closing { done, until: None, unregistered: false });
    }

    fn is_over(&mut self, now: Instant) -> bool {
        let quiet = self.line.is_quiet();
        let Some(closing) = &mut self.closing else { return false };
        let over = (closing.unregistered && quiet) || closing.until.is_some_and(|until| until <= now);
        if over && let Some(done) = closing.done.take() {
            // The waiter may have run out of patience.
            let _ = done.send(());
        }
        over
    }

    /// Carries out what the machine wants.
    async fn flush(&mut self) {
        while let Some(bytes) = self.line.poll_send() {
            if let Err(error) = self.socket.send(&bytes).await {
                tracing::debug!(%error, "not sent; the timers try again");
            }
        }
        while let Some(event) = self.line.poll_event() {
            let first = match event {
                LineEvent::Registered => Ok(()),
                LineEvent::NotRegistered(status) => Err(status),
                LineEvent::Unregistered => {
                    if let Some(closing) = &mut self.closing {
                        closing.unregistered = true;
                    }
                    continue;
                }
                LineEvent::Phone(event) => {
                    self.waiting.push_back(event);
                    continue;
                }
            };
            if let Some(waiter) = self.first.take() {
                // Gone when `register` timed out or was dropped; then the inbox closes too.
                let _ = waiter.send(first);
            } else if let Err(status) = first {
                tracing::debug!(status, "the registration was not renewed");
            }
        }
    }
}
