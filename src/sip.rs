//! SIP: registrar and back-to-back user agent for phones (UDP, TCP) and for trunks (opaque message pipes to other
//! nodes). It does not know that there is a DHT, nor where media goes: SDP bodies pass through as bytes.
//!
//! Bytes go `driver` (sockets, clock) → `core` (sans-IO: `guard`, `message`, `transaction`, `dialog`, `registrar`) and come
//! up as `SipEvent`s; commands go down through `Sip`. Each leg is a dialog of its own, so nothing of one side is seen on
//! the other.

use crate::clock::UnixMillis;
use crate::telemetry::Metrics;
use bytes::Bytes;
use core::{Core, Settings};
use counts::Counts;
use driver::{Command, Driver, Ports, Sockets};
use registrar::Registrar;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

mod address;
mod core;
mod counts;
mod dialog;
mod digest;
mod driver;
mod flow;
mod guard;
mod message;
mod registrar;
mod transaction;

pub mod softphone;

/// Commands and events in flight between `sip` and `calls`; a few per leg.
const QUEUE: usize = 1_024;

/// What `sip` must know of an account to authenticate its phones.
#[derive(Clone)]
pub struct Account {
    pub name: String,
    pub password: String,
    /// Challenge with SHA-256 instead of MD5.
    pub sha256: bool,
}

/// Without the password.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.name)
    }
}

pub struct SipConfig {
    /// `None` = that transport is off. Port 0 allowed (tests, demo).
    pub udp: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
    /// Digest realm, and the host part of URIs shown to phones.
    pub realm: String,
    pub accounts: watch::Receiver<Arc<BTreeMap<String, Account>>>,
    /// Registrations saved before a restart (`Registrations::to_bytes`), by account.
    pub restored: Vec<(String, Vec<u8>)>,
    pub limits: SipLimits,
}

#[derive(Clone, Debug)]
pub struct SipLimits {
    pub max_legs: usize,
    pub max_contacts_per_account: usize,
    pub max_tcp_connections: usize,
    /// Token bucket per source address: requests per second and burst.
    pub requests_per_second: u32,
    pub request_burst: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum SipStartError {
    #[error("SIP port {address} is in use or not allowed: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
}

/// One side of a call as `sip` sees it: one dialog (or early dialog).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub u64);

/// A message pipe to another node. `calls` maps it to an overlay link one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrunkId(pub u64);

/// A registered phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContactId(pub u64);

/// A REGISTER waiting for its 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BindId(pub u64);

/// Who sent an INVITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A phone that authenticated for this account. `local_ip`: our address it talks to; `remote_ip`: its own.
    Phone { account: String, local_ip: IpAddr, remote_ip: IpAddr },
    /// The far end of a trunk; its proven user is known to whoever opened the trunk.
    Trunk(TrunkId),
}

/// Where a leg goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialTarget {
    Contact(ContactId),
    Trunk(TrunkId),
}

/// How the caller is presented: `uri` becomes From and P-Asserted-Identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// `sip:...`, from the verified key only.
    pub uri: String,
    pub display: Option<String>,
}

/// A final answer or the reason of an end: SIP status and words (RFC 3326 text for BYE and CANCEL).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub status: u16,
    pub words: String,
}

/// Comes up from `sip`, in order per leg.
#[derive(Debug)]
pub enum SipEvent {
    /// Contacts of an account changed (REGISTER, expiry, removal). When `bind` is some, the phone waits for
    /// `confirm_bind` before it gets its 200. `snapshot` is what to keep; empty when no contact is left.
    Contacts {
        account: String,
        bind: Option<BindId>,
        contacts: Vec<ContactId>,
        snapshot: Vec<u8>,
    },
    /// A new call. 100 has been sent.
    Invited {
        leg: LegId,
        caller: Caller,
        dialled: String,
        display: Option<String>,
        offer: Bytes,
    },
    /// 180/183 on a leg that we dialled.
    Progress {
        leg: LegId,
        status: u16,
        words: String,
        sdp: Option<Bytes>,
    },
    /// 200 on a leg that we dialled (ACK has been sent).
    Answered {
        leg: LegId,
        sdp: Bytes,
    },
    /// Final non-2xx (or 408/503 made here) on a leg that we dialled. The leg is gone.
    Failed {
        leg: LegId,
        cause: Cause,
    },
    /// BYE, CANCEL, lost trunk or session timeout. The leg is gone.
    Ended {
        leg: LegId,
        cause: Option<Cause>,
    },
    /// re-INVITE or UPDATE with an offer on an established leg; answer with `answer_reoffer` or `reject_reoffer`.
    Reoffer {
        leg: LegId,
        offer: Bytes,
    },
    /// The far end's answer to our `reoffer`.
    ReofferAnswered {
        leg: LegId,
        sdp: Bytes,
    },
    ReofferFailed {
        leg: LegId,
        cause: Cause,
    },
    /// In-dialog INFO (e.g. DTMF); answered 200 already; pass it to the other leg with `info`.
    Info {
        leg: LegId,
        content_type: String,
        body: Bytes,
    },
    /// A SIP message for the far end of a trunk.
    TrunkSend {
        trunk: TrunkId,
        message: Bytes,
    },
}

/// Snapshot for readers.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct SipStatus {
    pub udp: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
    /// account → registered contacts as shown to people ("sip:..;transport=udp, 3599 s").
    pub registered: BTreeMap<String, Vec<String>>,
    pub legs: usize,
    pub transactions: usize,
    /// TCP connections open now.
    pub connections: usize,
    pub refused: BTreeMap<String, u64>,
}

/// Cloneable handle of the SIP actor. Commands are queued in order; none waits on the network. After `shutdown` all of
/// them do nothing.
///
/// Cancel safe: a dropped future has either queued its command or not.
#[derive(Clone)]
pub struct Sip {
    commands: mpsc::Sender<Command>,
    leg_ids: Arc<AtomicU64>,
    status: watch::Receiver<SipStatus>,
}

impl Sip {
    /// Binds the sockets and starts the actor.
    ///
    /// # Errors
    /// A socket that cannot be bound.
    pub async fn start(config: SipConfig, metrics: Metrics) -> Result<(Sip, mpsc::Receiver<SipEvent>), SipStartError> {
        let sockets = Sockets::bind(config.udp, config.tcp).await?;
        let (commands, command_queue) = mpsc::channel(QUEUE);
        let (events, event_queue) = mpsc::channel(QUEUE);
        let first = SipStatus { udp: sockets.udp_address(), tcp: sockets.tcp_address(), ..SipStatus::default() };
        let (status, status_reader) = watch::channel(first);
        let leg_ids = Arc::new(AtomicU64::new(1));
        let (now, wall) = (Instant::now(), UnixMillis::now());
        let mut accounts = config.accounts;
        let known = accounts.borrow_and_update().clone();
        let most = config.limits.max_contacts_per_account;
        let registrar = Registrar::new(config.realm.clone(), known, most, config.restored, random(), now, wall);
        let max_streams = config.limits.max_tcp_connections;
        let settings = Settings {
            realm: config.realm,
            limits: config.limits,
            udp_port: sockets.udp_address().map(|address| address.port()),
            key: random(),
        };
        let core = Core::new(settings, registrar, Counts::new(&metrics), leg_ids.clone(), now);
        let ports = Ports { commands: command_queue, events, status, accounts };
        let first_connection = u64::from_be_bytes(random()) >> 1;
        tokio::spawn(Driver::new(core, sockets, ports, max_streams, first_connection).run());
        Ok((Sip { commands, leg_ids, status: status_reader }, event_queue))
    }

    async fn tell(&self, command: Command) {
        // The actor ends only at shutdown; what is asked of it afterwards has no meaning.
        let _ = self.commands.send(command).await;
    }

    /// A fresh id for a leg that `calls` is about to dial.
    pub fn new_leg(&self) -> LegId {
        LegId(self.leg_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// The 200 (or 500) of a REGISTER may go.
    pub async fn confirm_bind(&self, bind: BindId, kept: bool) {
        self.tell(Command::ConfirmBind(bind, kept)).await;
    }

    /// The contacts of an account now, best first.
    pub async fn contacts(&self, account: &str) -> Vec<ContactId> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Contacts(account.to_owned(), reply)).await;
        answer.await.unwrap_or_default()
    }

    /// The local and remote IP of a contact's flow (where its media is likely to be).
    pub async fn contact_ips(&self, contact: ContactId) -> Option<(IpAddr, IpAddr)> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::ContactIps(contact, reply)).await;
        answer.await.ok().flatten()
    }

    /// A trunk is open: `local_uri` is our user's `sip:` URI, `remote_uri` the far end's proven one. A From other than
    /// `remote_uri` on an inbound request is refused with 403.
    pub async fn trunk_up(&self, trunk: TrunkId, local_uri: String, remote_uri: String) {
        self.tell(Command::TrunkUp(trunk, local_uri, remote_uri)).await;
    }

    /// A message came from the far end of a trunk.
    pub async fn trunk_receive(&self, trunk: TrunkId, message: Bytes) {
        self.tell(Command::TrunkReceive(trunk, message)).await;
    }

    /// The trunk is gone: its legs end, for this cause.
    pub async fn trunk_down(&self, trunk: TrunkId, cause: Cause) {
        self.tell(Command::TrunkDown(trunk, cause)).await;
    }

    /// Sends an INVITE on a new leg. `to_uri` is shown as To and request URI (the contact's own URI for phones).
    pub async fn dial(&self, leg: LegId, target: DialTarget, from: Presented, to_uri: String, offer: Bytes) {
        self.tell(Command::Dial(leg, target, from, to_uri, offer)).await;
    }

    /// 180 (no SDP) or 183/180 with SDP to the caller.
    pub async fn ring(&self, leg: LegId, status: u16, sdp: Option<Bytes>) {
        self.tell(Command::Ring(leg, status, sdp)).await;
    }

    /// 200 to the caller. `connected`: P-Asserted-Identity of who answered.
    pub async fn answer(&self, leg: LegId, sdp: Bytes, connected: Option<Presented>) {
        self.tell(Command::Answer(leg, sdp, connected)).await;
    }

    /// Final refusal to the caller. The leg is gone; no further event of it comes.
    pub async fn reject(&self, leg: LegId, cause: Cause) {
        self.tell(Command::Reject(leg, cause)).await;
    }

    /// BYE on an established leg, CANCEL on one still ringing (with Reason), whatever its state: the leg ends and no
    /// further event of it comes.
    pub async fn hang_up(&self, leg: LegId, cause: Cause) {
        self.tell(Command::HangUp(leg, cause)).await;
    }

    /// re-INVITE on an established leg. One at a time: otherwise `ReofferFailed` with 491.
    pub async fn reoffer(&self, leg: LegId, offer: Bytes) {
        self.tell(Command::Reoffer(leg, offer)).await;
    }

    /// 200 to a `Reoffer`.
    pub async fn answer_reoffer(&self, leg: LegId, sdp: Bytes) {
        self.tell(Command::AnswerReoffer(leg, sdp)).await;
    }

    /// Refuses a `Reoffer`; the session stays as it was.
    pub async fn reject_reoffer(&self, leg: LegId, cause: Cause) {
        self.tell(Command::RejectReoffer(leg, cause)).await;
    }

    /// In-dialog INFO on an established leg.
    pub async fn info(&self, leg: LegId, content_type: String, body: Bytes) {
        self.tell(Command::Info(leg, content_type, body)).await;
    }

    /// What the actor does now, at most 0.2 s old.
    pub fn status(&self) -> watch::Receiver<SipStatus> {
        self.status.clone()
    }

    /// Ends all legs, closes sockets. Takes under a second.
    pub async fn shutdown(&self) {
        let (done, closed) = oneshot::channel();
        self.tell(Command::Shutdown(done)).await;
        let _ = closed.await;
    }
}

/// Random bytes. Without them tags and nonces could be guessed, so a system that has none cannot run.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}
