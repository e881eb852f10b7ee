//! STUN (RFC 8489) on a port of media: telling it from RTP, and looking a check over before the ICE agent reads it. Pure.

const MAGIC: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const HEADER: usize = 20;
/// Longest message that is read, bytes: RFC 8489 §6.1 keeps requests below the smallest MTU.
const MAX_BYTES: usize = 576;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
/// What a check and its answer are made of (RFC 8445 §7.1, RFC 8489 §14): these, and what may be ignored.
const OF_A_CHECK: [u16; 6] = [0x0006, 0x0008, 0x0009, 0x0020, 0x0024, 0x0025];
/// Optional ones that the agent would remark upon in the log.
const REMARKED: [u16; 2] = [0x8023, 0xc057];

pub(super) type Transaction = [u8; 12];

/// What kind of Binding message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Request,
    Success,
    Error,
}

/// Whether a packet on a port of media is STUN: RTP and RTCP begin with other bits (RFC 7983).
pub(in crate::media) fn is_stun(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| *first < 4) && packet.get(4..8) == Some(&MAGIC)
}

/// Reads the shape of a Binding message: `None` for anything that is none, or holds what has no place in it.
pub(super) fn look_over(packet: &[u8]) -> Option<(Class, Transaction)> {
    let (class, transaction, attributes) = open(packet)?;
    let known = |kind: u16| (kind >= 0x8000 && !REMARKED.contains(&kind)) || OF_A_CHECK.contains(&kind);
    Attributes(attributes)
        .all(|attribute| attribute.is_some_and(|(kind, _)| known(kind)))
        .then_some((class, transaction))
}

fn open(packet: &[u8]) -> Option<(Class, Transaction, &[u8])> {
    if !is_stun(packet) || packet.len() > MAX_BYTES || !packet.len().is_multiple_of(4) {
        return None;
    }
    let word = |at: usize| packet.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let class = match word(0)? {
        BINDING_REQUEST => Class::Request,
        BINDING_SUCCESS => Class::Success,
        BINDING_ERROR => Class::Error,
        _ => return None,
    };
    let attributes = packet.get(HEADER..)?;
    let transaction = packet.get(8..HEADER)?.try_into().ok()?;
    (usize::from(word(2)?) == attributes.len()).then_some((class, transaction, attributes))
}

/// Attributes one by one; `None` where they do not add up, and then no more.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let one = || {
            let (head, rest) = self.0.split_first_chunk::<4>()?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let rest_after = rest.get(length.next_multiple_of(4)..)?;
            Some((u16::from_be_bytes([head[0], head[1]]), rest.get(..length)?, rest_after))
        };
        match one() {
            Some((kind, value, rest)) => {
                self.0 = rest;
                Some(Some((kind, value)))
            }
            None => {
                self.0 = &[];
                Some(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stun::binding_reply;
    use proptest::prelude::*;

    #[test]
    fn speech_is_not_stun_and_cut_messages_are_nothing() {
        assert!(!is_stun(&[0x80, 0, 0, 1]) && !is_stun(&[]) && !is_stun(&[0, 1, 0, 0, 1, 2, 3, 4]));
        let whole = binding_reply(&[5; 12], "8.7.6.5:61000".parse().unwrap());
        assert_eq!(look_over(&whole), Some((Class::Success, [5; 12])));
        for length in 0..whole.len() {
            assert_eq!(look_over(&whole[..length]), None);
        }
        let mut foreign = whole.clone();
        // MAPPED-ADDRESS.
        foreign[20..22].copy_from_slice(&[0, 1]);
        assert_eq!(look_over(&foreign), None, "the agent would remark upon it");
    }

    proptest! {
        #[test]
        fn whatever_passes_the_look_is_safe_for_the_agent(
            class in prop::sample::select(vec![BINDING_REQUEST, BINDING_SUCCESS, BINDING_ERROR, 0x0011, 0x0003]),
            attributes in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in any::<bool>(),
        ) {
            let mut body = Vec::new();
            for (kind, value) in attributes {
                let kind = if kind % 2 == 0 { OF_A_CHECK[usize::from(kind / 2) % 6] } else { kind };
                body.extend(kind.to_be_bytes());
                body.extend((value.len() as u16).to_be_bytes());
                body.extend(&value);
                body.resize(body.len().next_multiple_of(4), 0);
            }
            if cut {
                body.truncate(body.len() / 8 * 4);
            }
            let mut packet = class.to_be_bytes().to_vec();
            packet.extend((body.len() as u16).to_be_bytes());
            packet.extend(MAGIC);
            packet.extend([9; 12]);
            packet.extend(body);
            if look_over(&packet).is_some() {
                let _ = is::stun::StunMessage::parse(&packet);
            }
        }
    }
}
