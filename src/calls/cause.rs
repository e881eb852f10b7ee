//! Why a call ends: the one place that turns causes into SIP status codes and words that a person understands.

use crate::directory::DialError;
use crate::locator::LocateError;
use crate::media::MediaError;
use crate::overlay::LinkError;
use crate::sip::Cause;

fn cause(status: u16, words: impl Into<String>) -> Cause {
    Cause { status, words: words.into() }
}

/// What was dialled leads nowhere.
pub(super) fn of_dialled(error: DialError) -> Cause {
    match error {
        DialError::Mistyped => cause(484, "This number is mistyped"),
        DialError::Newer => cause(501, "This number was made by a newer Peerline: please update"),
        DialError::OtherOverlay => cause(404, "This address belongs to another overlay"),
        DialError::Unknown => cause(404, "No contact, extension or number of that name"),
    }
}

/// Nobody was found. "Never existed" and "is away" look the same in the overlay.
pub(super) fn of_lookup(error: LocateError) -> Cause {
    match error {
        LocateError::NotFound => not_online(),
        LocateError::NoOverlay => cause(503, "The overlay cannot be reached from here"),
        LocateError::Timeout => cause(504, "Nobody in the overlay answered in time"),
        LocateError::Revoked => cause(410, "This number was given up by its owner"),
        LocateError::Stopped => stopping(),
    }
}

/// A device was found and not reached.
pub(super) fn of_link(error: &LinkError) -> Cause {
    match error {
        LinkError::Unreachable => cause(480, "Their device cannot be reached"),
        LinkError::Timeout => cause(480, "Their device did not answer in time"),
        LinkError::Refused(_) => cause(480, "Their device refused the connection"),
        LinkError::NotProven(_) => cause(480, "The device did not prove that it may speak for this number"),
        LinkError::Full => cause(503, "The connection to their device is overloaded"),
        LinkError::Stopped => stopping(),
    }
}

/// Media could not be set up.
pub(super) fn of_media(error: &MediaError) -> Cause {
    match error {
        MediaError::NoPorts | MediaError::TooManyLegs => cause(503, "Too many calls at once on this node"),
        MediaError::BadSdp(_) => cause(488, "The description of the media was not understood"),
        MediaError::NoCrypto => cause(488, "No encryption that both sides accept"),
        MediaError::Io(_) => cause(500, "The media could not be opened on this node"),
    }
}

pub(super) fn not_online() -> Cause {
    cause(480, "Not online")
}

pub(super) fn no_phone() -> Cause {
    cause(480, "No phone is registered")
}

pub(super) fn do_not_disturb() -> Cause {
    cause(480, "Does not want to be disturbed")
}

/// 480 rather than 408: the phone at the far end was reached and rang; 408 would tell the caller's phone that the
/// network failed, and some try again at once.
pub(super) fn no_answer() -> Cause {
    cause(480, "No answer")
}

/// To the phones that did not win (RFC 3326).
pub(super) fn elsewhere() -> Cause {
    cause(200, "Call completed elsewhere")
}

pub(super) fn declined_elsewhere() -> Cause {
    cause(603, "Declined elsewhere")
}

/// The caller hung up before anyone answered.
pub(super) fn cancelled() -> Cause {
    cause(487, "The caller hung up")
}

pub(super) fn ordinary() -> Cause {
    cause(200, "Hung up")
}

pub(super) fn too_many_calls() -> Cause {
    cause(503, "Too many calls at once on this node")
}

/// A stranger, or everybody, makes one user's phones ring too often at once.
pub(super) fn too_many_rings() -> Cause {
    cause(486, "Too many calls to this number at once")
}

/// The account of a phone has no user that this node speaks for.
pub(super) fn no_user() -> Cause {
    cause(403, "This account has no number")
}

/// The link to the other end's node ended under a call.
pub(super) fn gone() -> Cause {
    cause(503, "The other node is gone")
}

pub(super) fn lost() -> Cause {
    cause(500, "The connection was lost")
}

/// Two re-INVITEs met (RFC 3261 §14.1).
pub(super) fn glare() -> Cause {
    cause(491, "Request pending")
}

pub(super) fn overwhelmed() -> Cause {
    cause(500, "Too many messages in one call")
}

pub(super) fn silent() -> Cause {
    cause(408, "No sound from either side for a long time")
}

pub(super) fn stopping() -> Cause {
    cause(503, "This node is stopping")
}

/// Which of several failures the caller gets (RFC 3261 §16.7, step 6): lower is better. A 6xx speaks for the user; then
/// what a person or phone said; then "not there"; last what went wrong on the way.
fn rank(status: u16) -> u8 {
    match status {
        600..=699 => 0,
        486 => 1,
        488 | 415 | 406 => 2,
        300..=399 => 3,
        480 | 404 | 408 | 410 | 487 => 5,
        400..=499 => 4,
        _ => 6,
    }
}

/// The better of two; the earlier one when both are as good.
pub(super) fn better(held: Option<Cause>, new: Cause) -> Cause {
    match held {
        Some(held) if rank(held.status) <= rank(new.status) => held,
        Some(_) | None => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_who_declined_outweighs_a_busy_phone_and_that_a_lost_one() {
        let of = |status| cause(status, "");
        let chosen = |causes: &[u16]| causes.iter().fold(None, |held, s| Some(better(held, of(*s)))).unwrap().status;
        assert_eq!(chosen(&[480, 486, 603, 503]), 603);
        assert_eq!(chosen(&[408, 503, 486]), 486);
        assert_eq!(chosen(&[503, 480]), 480);
        assert_eq!(chosen(&[480, 404]), 480);
    }
}
