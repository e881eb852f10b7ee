//! Who is at the far end: says a hello and judges one. Pure: the time comes with the [`Judge`].
//!
//! The channel (Noise or TLS) has proved which node the far end is. A hello binds a user to that node: the user's
//! certificate in it must name the very key that the channel proved, so a hello that somebody passes on proves nothing.

use super::frame::{Close, CloseCode};
use super::{MAX_CLOCK_SKEW_SECONDS, Refusal};
use crate::identity::NodeKey;
use crate::record::{self, Judge, Pin, RejectReason, VerifiedPeerUser};
use crate::uri::IdHash;
use crate::wire::pb;
use bytes::Bytes;
use prost::Message;

/// The version of `sip/1` spoken here, and the lowest that is still understood.
const VERSION: u32 = 1;

/// Names a session: drawn by the end that opens it.
pub(super) type SessionId = [u8; 16];

/// A hello of the right shape; nothing in it is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub from: IdHash,
    pub to: IdHash,
    pub bundle: Bytes,
    pub session: SessionId,
    /// Unix seconds.
    pub time: u64,
    pub resume: bool,
    pub received: u64,
    pub instead_of: Option<SessionId>,
}

/// Why a hello is refused: what the ledger counts, and what the far end is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub reason: Refusal,
    pub close: Close,
}

impl Refused {
    pub fn new(reason: Refusal) -> Self {
        let code = match reason {
            Refusal::NoSuchUser => CloseCode::NoSuchUser,
            Refusal::Clock => CloseCode::Clock,
            Refusal::Version => CloseCode::Version,
            Refusal::NotProven(_) => CloseCode::NotProven,
            Refusal::UnknownSession => CloseCode::UnknownSession,
            Refusal::Full | Refusal::Flood => CloseCode::Full,
            Refusal::Malformed | Refusal::TooLarge | Refusal::HelloTimeout => CloseCode::Malformed,
        };
        Self { reason, close: Close { code, words: reason.to_string() } }
    }
}

impl Hello {
    pub fn into_wire(self) -> pb::Hello {
        pb::Hello {
            min_version: VERSION,
            max_version: VERSION,
            from: Bytes::copy_from_slice(&self.from.0),
            to: Bytes::copy_from_slice(&self.to.0),
            bundle: self.bundle,
            session: Bytes::copy_from_slice(&self.session),
            time: self.time,
            resume: self.resume,
            received: self.received,
            instead_of: self.instead_of.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default(),
        }
    }

    /// Reads a hello and settles version and clock, which need no proof.
    ///
    /// # Errors
    /// Malformed, no common version, or clocks too far apart.
    pub fn read(bytes: Bytes, judge: &Judge) -> Result<Self, Refused> {
        let malformed = || Refused::new(Refusal::Malformed);
        let hello = pb::Hello::decode(bytes).map_err(|_| malformed())?;
        if hello.min_version > VERSION || hello.max_version < VERSION {
            let words = format!("version {VERSION} here, {} to {} there", hello.min_version, hello.max_version);
            return Err(Refused { reason: Refusal::Version, close: Close { code: CloseCode::Version, words } });
        }
        let hello = Self {
            from: IdHash(hello.from.as_ref().try_into().map_err(|_| malformed())?),
            to: IdHash(hello.to.as_ref().try_into().map_err(|_| malformed())?),
            session: hello.session.as_ref().try_into().map_err(|_| malformed())?,
            instead_of: match hello.instead_of.as_ref() {
                [] => None,
                id => Some(id.try_into().map_err(|_| malformed())?),
            },
            bundle: hello.bundle,
            time: hello.time,
            resume: hello.resume,
            received: hello.received,
        };
        if hello.bundle.len() > record::MAX_BUNDLE_BYTES {
            return Err(malformed());
        }
        hello.check_clock(judge)?;
        Ok(hello)
    }

    fn check_clock(&self, judge: &Judge) -> Result<(), Refused> {
        let here = judge.now.seconds();
        let apart = here.abs_diff(self.time);
        if apart <= MAX_CLOCK_SKEW_SECONDS {
            return Ok(());
        }
        let side = if self.time > here { "ahead of" } else { "behind" };
        let words =
            format!("your clock is {apart} s {side} mine; {MAX_CLOCK_SKEW_SECONDS} s are allowed: set the clock");
        Err(Refused { reason: Refusal::Clock, close: Close { code: CloseCode::Clock, words } })
    }

    /// Proves that `from` let the node at the far end of the channel speak for them.
    ///
    /// # Errors
    /// The reason why it does not prove that.
    pub fn verify(&self, channel: &NodeKey, pin: Option<Pin>, judge: &Judge) -> Result<VerifiedPeerUser, RejectReason> {
        let user = record::verify_hello_user(&self.from, &self.bundle, channel, pin, judge)?;
        // The validator says so already; a link to the wrong person must not hang on one check.
        if user.id != self.from || user.node != *channel {
            return Err(RejectReason::BadCertificate);
        }
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::wire::{AddressScope, OverlayId};

    const NOW: u64 = 1_800_000_000;

    fn judge() -> Judge {
        Judge { overlay: OverlayId([1; 32]), scope: AddressScope::Any, now: UnixMillis::from_seconds(NOW) }
    }

    fn hello() -> Hello {
        Hello {
            from: IdHash([1; 22]),
            to: IdHash([2; 22]),
            bundle: Bytes::from_static(b"bundle"),
            session: [3; 16],
            time: NOW,
            resume: true,
            received: 9,
            instead_of: Some([4; 16]),
        }
    }

    fn refusal(hello: pb::Hello) -> Refusal {
        Hello::read(hello.encode_to_vec().into(), &judge()).unwrap_err().reason
    }

    #[test]
    fn reads_what_it_wrote() {
        assert_eq!(Hello::read(hello().into_wire().encode_to_vec().into(), &judge()), Ok(hello()));
    }

    #[test]
    fn refuses_wrong_lengths() {
        for spoil in [
            (|h: &mut pb::Hello| h.from = Bytes::from_static(&[1; 21])) as fn(&mut pb::Hello),
            |h| h.to = Bytes::new(),
            |h| h.session = Bytes::from_static(&[1; 17]),
            |h| h.instead_of = Bytes::from_static(&[1]),
            |h| h.bundle = vec![0; record::MAX_BUNDLE_BYTES + 1].into(),
        ] {
            let mut wire = hello().into_wire();
            spoil(&mut wire);
            assert_eq!(refusal(wire), Refusal::Malformed);
        }
    }

    #[test]
    fn says_which_clock_is_wrong() {
        let at = |time| Hello::read(Hello { time, ..hello() }.into_wire().encode_to_vec().into(), &judge());
        assert!(at(NOW + 300).is_ok() && at(NOW - 300).is_ok());
        let ahead = at(NOW + 301).unwrap_err();
        assert_eq!((ahead.reason, ahead.close.code), (Refusal::Clock, CloseCode::Clock));
        assert!(ahead.close.words.starts_with("your clock is 301 s ahead of mine"), "{}", ahead.close.words);
        assert!(at(0).unwrap_err().close.words.contains("behind"));
    }

    #[test]
    fn a_newer_hello_is_told_the_version_whatever_else_it_holds() {
        let mut bytes = pb::Hello { min_version: 2, max_version: 3, ..Default::default() }.encode_to_vec();
        bytes.extend([0x7a, 1, 0]);
        assert_eq!(Hello::read(bytes.into(), &judge()).unwrap_err().reason, Refusal::Version);
        assert_eq!(refusal(pb::Hello::default()), Refusal::Version);
    }

    #[test]
    fn every_refusal_fits_into_a_close() {
        for reason in [Refusal::Flood, Refusal::NotProven(RejectReason::NotCertified), Refusal::UnknownSession] {
            assert!(Refused::new(reason).close.words.len() <= 128);
        }
    }
}
