//! The outside of RTP and RTCP packets: enough to tell them apart and to know who sent them, before anything else
//! looks at them. Strict, because the SRTP library sizes its work by the header and would index past a crooked one.

/// Longest packet that is relayed, bytes. Anything that crosses the internet whole is below 1,500.
pub(super) const MAX_PACKET: usize = 2_000;

const RECEIVER_REPORT: u8 = 201;

/// RFC 5761 §4: by the second byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rtp,
    Rtcp,
}

/// What the header says. Nothing in it is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) ssrc: u32,
    /// RTP only; 0 for RTCP.
    pub(super) sequence: u16,
    /// RTP only; 0 for RTCP.
    pub(super) timestamp: u32,
    /// RTP payload type or RTCP packet type.
    pub(super) payload_type: u8,
    /// Where the payload starts.
    pub(super) len: usize,
}

/// Reads the header of an RTP or RTCP packet, plain or encrypted. `None` for anything crooked.
pub(super) fn read(packet: &[u8]) -> Option<Header> {
    if packet.len() > MAX_PACKET || packet.first()? >> 6 != 2 {
        return None;
    }
    match *packet.get(1)? {
        192..=223 => read_rtcp(packet),
        _ => read_rtp(packet),
    }
}

fn read_rtcp(packet: &[u8]) -> Option<Header> {
    let words = usize::from(u16_at(packet, 2)?);
    if (words + 1) * 4 > packet.len() {
        return None;
    }
    let ssrc = u32_at(packet, 4)?;
    Some(Header { kind: Kind::Rtcp, ssrc, sequence: 0, timestamp: 0, payload_type: packet[1], len: 8 })
}

fn read_rtp(packet: &[u8]) -> Option<Header> {
    let first = *packet.first()?;
    let mut len = 12 + usize::from(first & 0x0f) * 4;
    if first & 0x10 != 0 {
        let profile = u16_at(packet, len)?;
        let block_len = usize::from(u16_at(packet, len + 2)?) * 4;
        let block = packet.get(len + 4..len + 4 + block_len)?;
        if !extension_is_sound(profile, block) {
            return None;
        }
        len += 4 + block_len;
    }
    if packet.len() < len {
        return None;
    }
    Some(Header {
        kind: Kind::Rtp,
        ssrc: u32_at(packet, 8)?,
        sequence: u16_at(packet, 2)?,
        timestamp: u32_at(packet, 4)?,
        payload_type: packet.get(1)? & 0x7f,
        len,
    })
}

/// RFC 8285 §4: every element ends inside the block. The SRTP library does not check this.
fn extension_is_sound(profile: u16, block: &[u8]) -> bool {
    let mut at = 0;
    while at < block.len() {
        let step = match (profile, block[at]) {
            (0xbede | 0x1000, 0) => 1,
            // The reserved id ends parsing early, so two parsers disagree on the length: refused.
            (0xbede, id_len) if id_len >> 4 == 15 => return false,
            (0xbede, id_len) => 2 + usize::from(id_len & 0x0f),
            (0x1000, _) => match block.get(at + 1) {
                Some(len) => 2 + usize::from(*len),
                None => return false,
            },
            _ => return true,
        };
        at += step;
    }
    at == block.len()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Writes a plain RTP packet without CSRCs or extensions into `out` (RFC 3550 §5.1).
pub(super) fn write_rtp(out: &mut Vec<u8>, marker: bool, header: (u8, u16, u32, u32), payload: &[u8]) {
    let (payload_type, sequence, timestamp, ssrc) = header;
    out.clear();
    out.extend_from_slice(&[0x80, payload_type & 0x7f | if marker { 0x80 } else { 0 }]);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&timestamp.to_be_bytes());
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A receiver report about nobody (RFC 3550 §6.4.2), our keepalive between nodes.
pub(super) fn empty_report(ssrc: u32) -> [u8; 8] {
    let [a, b, c, d] = ssrc.to_be_bytes();
    [0x80, RECEIVER_REPORT, 0, 1, a, b, c, d]
}

pub(super) fn is_empty_report(packet: &[u8]) -> bool {
    matches!(packet, [0x80, RECEIVER_REPORT, 0, 1, _, _, _, _])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_it_wrote() {
        let mut packet = Vec::new();
        write_rtp(&mut packet, true, (8, 65_535, 160, 0xdead_beef), &[1, 2, 3]);
        let header = read(&packet).unwrap();
        assert_eq!((header.kind, header.payload_type, header.sequence), (Kind::Rtp, 8, 65_535));
        assert_eq!((header.timestamp, header.ssrc, header.len), (160, 0xdead_beef, 12));
    }

    #[test]
    fn tells_rtcp_by_its_type() {
        let report = [0x80, 201, 0, 1, 0, 0, 0, 7];
        assert_eq!(read(&report).map(|h| (h.kind, h.ssrc)), Some((Kind::Rtcp, 7)));
        assert_eq!(read(&[0x80, 201, 0, 2, 0, 0, 0, 7]), None, "says it is longer than it is");
    }

    #[test]
    fn refuses_an_extension_that_runs_into_the_payload() {
        // One block of four bytes whose only element claims sixteen.
        let mut packet = vec![0x90, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0xbe, 0xde, 0, 1, 0x1f, 0, 0, 0];
        packet.extend_from_slice(&[0; 17]);
        assert_eq!(read(&packet), None);
        packet[16] = 0x12;
        assert_eq!(read(&packet).map(|h| h.len), Some(20));
        packet[16] = 0xf0;
        assert_eq!(read(&packet), None, "the reserved id");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_points_outside(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(header) = read(&packet) {
                prop_assert!(header.len <= packet.len());
            }
        }
    }
}
