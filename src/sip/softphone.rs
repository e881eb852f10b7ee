//! A headless SIP phone: registers with a node over real UDP and places or answers calls. Used by `demo`, `call`,
//! `answer` and the end-to-end tests. Signalling only: SDP comes from and goes to the caller of this module.
//! Skeleton: owned by the `sip-registrar` work.

use super::Cause;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;

pub struct SoftphoneConfig {
    /// The node's SIP UDP address.
    pub server: SocketAddr,
    pub account: String,
    pub password: String,
    /// Display name shown with calls.
    pub display: Option<String>,
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

/// One line: at most one call at a time.
pub struct Softphone {}

impl Softphone {
    /// Binds a UDP port on the server's interface and registers; keeps the registration fresh until dropped.
    pub async fn register(_config: SoftphoneConfig) -> Result<(Softphone, mpsc::Receiver<PhoneEvent>), SoftphoneError> {
        unimplemented!("skeleton")
    }
    /// INVITE `who` (anything one could dial: number, contact, extension, `echo`). Digest is answered by itself.
    pub async fn call(&self, _who: &str, _offer: Bytes) {
        unimplemented!("skeleton")
    }
    pub async fn ring(&self) {
        unimplemented!("skeleton")
    }
    pub async fn answer(&self, _sdp: Bytes) {
        unimplemented!("skeleton")
    }
    pub async fn reject(&self, _status: u16) {
        unimplemented!("skeleton")
    }
    pub async fn hang_up(&self) {
        unimplemented!("skeleton")
    }
    /// Un-registers and closes, waiting at most `deadline`.
    pub async fn close(self, _deadline: Duration) {
        unimplemented!("skeleton")
    }
}
