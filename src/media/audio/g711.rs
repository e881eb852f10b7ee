//! G.711 (ITU-T G.711): 8-bit logarithmic speech, µ-law (PCMU) and A-law (PCMA), both ways.

/// The two laws with their static RTP payload types (RFC 3551 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    Mu,
    A,
}

impl Law {
    pub(super) const fn payload_type(self) -> u8 {
        match self {
            Law::Mu => 0,
            Law::A => 8,
        }
    }

    pub(super) fn by_payload_type(payload_type: u8) -> Option<Law> {
        [Law::Mu, Law::A].into_iter().find(|law| law.payload_type() == payload_type)
    }

    pub(super) fn encode(self, sample: i16) -> u8 {
        match self {
            Law::Mu => encode_mu(sample),
            Law::A => encode_a(sample),
        }
    }

    pub(super) fn decode(self, byte: u8) -> i16 {
        match self {
            Law::Mu => MU[usize::from(byte)],
            Law::A => A[usize::from(byte)],
        }
    }
}

/// 14-bit magnitudes are shifted by this before their segment is taken.
const MU_BIAS: i32 = 0x84;
const MU_CLIP: i32 = 32_635;

static MU: [i16; 256] = table_mu();
static A: [i16; 256] = table_a();

fn encode_mu(sample: i16) -> u8 {
    let negative = sample < 0;
    let magnitude = i32::from(sample).abs().min(MU_CLIP) + MU_BIAS;
    // The highest set bit is 7 (smallest segment) to 14.
    let segment = 24 - magnitude.leading_zeros() as i32;
    let mantissa = (magnitude >> (segment + 3)) & 0x0f;
    let code = (segment << 4 | mantissa) as u8;
    !(code | if negative { 0x80 } else { 0 })
}

fn encode_a(sample: i16) -> u8 {
    let negative = sample < 0;
    // 13 bits, with -1 and 0 on either side of the middle.
    let magnitude = if negative { !i32::from(sample) >> 4 } else { i32::from(sample) >> 4 };
    let segment = (28 - (magnitude | 0x0f).leading_zeros() as i32).max(0);
    let mantissa = if segment <= 1 { magnitude & 0x0f } else { (magnitude >> (segment - 1)) & 0x0f };
    let code = (segment << 4 | mantissa) as u8;
    (code | if negative { 0 } else { 0x80 }) ^ 0x55
}

const fn table_mu() -> [i16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let code = !(byte as u8) as i32;
        let magnitude = (((code & 0x0f) << 3) + MU_BIAS) << ((code & 0x70) >> 4);
        table[byte] = if code & 0x80 != 0 { (MU_BIAS - magnitude) as i16 } else { (magnitude - MU_BIAS) as i16 };
        byte += 1;
    }
    table
}

const fn table_a() -> [i16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let code = (byte as u8 ^ 0x55) as i32;
        let (segment, mantissa) = ((code & 0x70) >> 4, (code & 0x0f) << 4);
        let magnitude = match segment {
            0 => mantissa + 8,
            _ => (mantissa + 0x108) << (segment - 1),
        };
        table[byte] = if code & 0x80 != 0 { magnitude as i16 } else { -magnitude as i16 };
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_points_of_the_recommendation() {
        assert_eq!((Law::Mu.decode(0xff), Law::Mu.decode(0x7f)), (0, 0));
        assert_eq!((Law::Mu.decode(0x80), Law::Mu.decode(0x00)), (32_124, -32_124));
        assert_eq!((Law::A.decode(0xd5), Law::A.decode(0x55)), (8, -8));
        assert_eq!((Law::A.decode(0xaa), Law::A.decode(0x2a)), (32_256, -32_256));
        assert_eq!((Law::Mu.encode(0), Law::A.encode(0), Law::A.encode(-1)), (0xff, 0xd5, 0x55));
        assert_eq!((Law::Mu.encode(i16::MAX), Law::Mu.encode(i16::MIN)), (0x80, 0x00));
        assert_eq!((Law::A.encode(i16::MAX), Law::A.encode(i16::MIN)), (0xaa, 0x2a));
    }

    #[test]
    fn every_code_is_the_code_of_its_sample() {
        for law in [Law::Mu, Law::A] {
            for byte in 0..=255 {
                let again = law.encode(law.decode(byte));
                // µ-law has two zeros.
                assert!(again == byte || (law == Law::Mu && byte == 0x7f && again == 0xff), "{law:?} {byte:#x}");
            }
        }
    }

    #[test]
    fn loses_little() {
        for law in [Law::Mu, Law::A] {
            for sample in i16::MIN..=i16::MAX {
                let error = (i32::from(law.decode(law.encode(sample))) - i32::from(sample)).abs();
                assert!(error <= 16 + i32::from(sample).abs() / 16, "{law:?} {sample}: off by {error}");
            }
        }
    }
}
