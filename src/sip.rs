//! SIP: registrar and back-to-back user agent for phones (UDP, TCP) and for trunks (opaque message pipes to other
//! nodes). It does not know that there is a DHT, nor where media goes: SDP bodies pass through as bytes.
//! Skeleton: face owned by the `sip-ua` work (registrar and digest by `sip-registrar`).

use crate::telemetry::Metrics;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

mod digest;
mod flow;
mod registrar;

pub mod softphone;

/// What `sip` must know of an account to authenticate its phones.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub password: String,
    /// Challenge with SHA-256 instead of MD5.
    pub sha256: bool,
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
    pub refused: BTreeMap<String, u64>,
}

/// Cloneable handle of the SIP actor. Commands are queued in order; none waits on the network.
#[derive(Clone)]
pub struct Sip {}

impl Sip {
    pub async fn start(
        _config: SipConfig,
        _metrics: Metrics,
    ) -> Result<(Sip, mpsc::Receiver<SipEvent>), SipStartError> {
        unimplemented!("skeleton")
    }
    /// A fresh id for a leg that `calls` is about to dial.
    pub fn new_leg(&self) -> LegId {
        unimplemented!("skeleton")
    }
    /// The 200 (or 500) of a REGISTER may go.
    pub async fn confirm_bind(&self, _bind: BindId, _kept: bool) {
        unimplemented!("skeleton")
    }
    /// The contacts of an account now, best first.
    pub async fn contacts(&self, _account: &str) -> Vec<ContactId> {
        unimplemented!("skeleton")
    }
    /// The local and remote IP of a contact's flow (where its media is likely to be).
    pub async fn contact_ips(&self, _contact: ContactId) -> Option<(IpAddr, IpAddr)> {
        unimplemented!("skeleton")
    }
    /// A trunk is open: `local_uri` is our user's `sip:` URI, `remote_uri` the far end's proven one. A From other than
    /// `remote_uri` on an inbound request is refused with 403.
    pub async fn trunk_up(&self, _trunk: TrunkId, _local_uri: String, _remote_uri: String) {
        unimplemented!("skeleton")
    }
    /// A message came from the far end of a trunk.
    pub async fn trunk_receive(&self, _trunk: TrunkId, _message: Bytes) {
        unimplemented!("skeleton")
    }
    /// The trunk is gone: its legs end.
    pub async fn trunk_down(&self, _trunk: TrunkId) {
        unimplemented!("skeleton")
    }
    /// Sends an INVITE on a new leg. `to_uri` is shown as To and request URI (the contact's own URI for phones).
    pub async fn dial(&self, _leg: LegId, _target: DialTarget, _from: Presented, _to_uri: String, _offer: Bytes) {
        unimplemented!("skeleton")
    }
    /// 180 (no SDP) or 183/180 with SDP to the caller.
    pub async fn ring(&self, _leg: LegId, _status: u16, _sdp: Option<Bytes>) {
        unimplemented!("skeleton")
    }
    /// 200 to the caller. `connected`: P-Asserted-Identity of who answered.
    pub async fn answer(&self, _leg: LegId, _sdp: Bytes, _connected: Option<Presented>) {
        unimplemented!("skeleton")
    }
    /// Final refusal to the caller.
    pub async fn reject(&self, _leg: LegId, _cause: Cause) {
        unimplemented!("skeleton")
    }
    /// BYE on an established leg, CANCEL on one still ringing (with Reason), whatever its state: the leg ends and no
    /// further event of it comes.
    pub async fn hang_up(&self, _leg: LegId, _cause: Cause) {
        unimplemented!("skeleton")
    }
    /// re-INVITE on an established leg.
    pub async fn reoffer(&self, _leg: LegId, _offer: Bytes) {
        unimplemented!("skeleton")
    }
    pub async fn answer_reoffer(&self, _leg: LegId, _sdp: Bytes) {
        unimplemented!("skeleton")
    }
    pub async fn reject_reoffer(&self, _leg: LegId, _cause: Cause) {
        unimplemented!("skeleton")
    }
    pub async fn info(&self, _leg: LegId, _content_type: String, _body: Bytes) {
        unimplemented!("skeleton")
    }
    pub fn status(&self) -> watch::Receiver<SipStatus> {
        unimplemented!("skeleton")
    }
    /// Ends all legs, closes sockets.
    pub async fn shutdown(&self) {
        unimplemented!("skeleton")
    }
}
