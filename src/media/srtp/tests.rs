use super::*;
use crate::media::packet::{self, write_rtp};
use proptest::prelude::*;

fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    write_rtp(&mut packet, false, (0, sequence, u32::from(sequence) * 160, ssrc), &[0x55; 160]);
    packet
}

fn report(ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet
}

fn seal(sealer: &mut Sealer, packet: &[u8]) -> Result<Vec<u8>, Refused> {
    sealer.seal(&packet::read(packet).unwrap(), packet).map(|sealed| sealed.to_vec())
}

fn open(opener: &mut Opener, packet: &[u8]) -> Result<Vec<u8>, Refused> {
    let header = packet::read(packet).ok_or(Refused::Forged)?;
    opener.open(&header, packet).map(|opened| opened.to_vec())
}

fn both(suite: Suite) -> (Sealer, Opener) {
    let key = Key::fresh(suite).unwrap();
    (Sealer::new(&key).unwrap(), Opener::new(key).unwrap())
}

const SUITES: [Suite; 2] = [Suite::AeadAes128Gcm, Suite::AesCm128HmacSha1_80];

#[test]
fn opens_what_it_sealed_and_only_once() {
    for suite in SUITES {
        let (mut sealer, mut opener) = both(suite);
        for packet in [rtp(1, 7), rtp(2, 7), report(7), report(7)] {
            let sealed = seal(&mut sealer, &packet).unwrap();
            assert!(!sealed.windows(16).any(|window| window == [0x55; 16]), "readable under {suite:?}");
            assert_eq!(open(&mut opener, &sealed), Ok(packet));
            assert_eq!(open(&mut opener, &sealed), Err(Refused::Forged), "replayed under {suite:?}");
        }
    }
}

#[test]
fn refuses_each_altered_byte() {
    for suite in SUITES {
        let (mut sealer, mut opener) = both(suite);
        for plain in [rtp(1, 7), report(7)] {
            let sealed = seal(&mut sealer, &plain).unwrap();
            for at in 0..sealed.len() {
                let mut altered = sealed.clone();
                altered[at] ^= 1;
                assert!(open(&mut opener, &altered).is_err(), "byte {at} under {suite:?}");
            }
            assert_eq!(open(&mut opener, &sealed), Ok(plain), "the altered ones left no trace");
        }
    }
}

#[test]
fn takes_no_report_that_says_it_is_not_encrypted() {
    let (_, mut opener) = both(Suite::AesCm128HmacSha1_80);
    let mut packet = report(7);
    packet.extend_from_slice(&[0, 0, 0, 1]);
    packet.extend_from_slice(&[0; 10]);
    assert_eq!(open(&mut opener, &packet), Err(Refused::Forged));
}

#[test]
fn a_hundred_thousand_forged_ssrcs_leave_bounded_state() {
    let (mut sealer, mut opener) = both(Suite::AeadAes128Gcm);
    let genuine = seal(&mut sealer, &rtp(1, 7)).unwrap();
    for ssrc in 0..100_000_u32 {
        let mut forged = genuine.clone();
        forged[8..12].copy_from_slice(&(ssrc | 0x8000_0000).to_be_bytes());
        assert_eq!(open(&mut opener, &forged), Err(Refused::Forged));
    }
    assert!(opener.trials <= MAX_TRIALS && opener.sources.is_empty());
    assert_eq!(open(&mut opener, &genuine), Ok(rtp(1, 7)));
}

#[test]
fn a_forged_first_packet_does_not_lock_out_the_genuine_ones() {
    let (mut sealer, mut opener) = both(Suite::AeadAes128Gcm);
    let first = seal(&mut sealer, &rtp(5, 7)).unwrap();
    let mut forged = first.clone();
    forged[2..4].copy_from_slice(&30_000_u16.to_be_bytes());
    assert_eq!(open(&mut opener, &forged), Err(Refused::Forged));
    assert_eq!(open(&mut opener, &first), Ok(rtp(5, 7)));
    assert_eq!(open(&mut opener, &forged), Err(Refused::Forged));
    let second = seal(&mut sealer, &rtp(6, 7)).unwrap();
    assert_eq!(open(&mut opener, &second), Ok(rtp(6, 7)));
}

#[test]
fn never_seals_a_sequence_number_twice() {
    let (mut sealer, _) = both(Suite::AeadAes128Gcm);
    for (sequence, good) in [
        (65_530, true),
        (65_530, false),
        (65_529, false),
        (65_535, true),
        (65_531, true),
        (65_531, false),
        (3, true),
        (65_532, true),
        (3, false),
        (200, true),
        (4, false),
        (150, true),
        (150, false),
    ] {
        assert_eq!(seal(&mut sealer, &rtp(sequence, 7)).is_ok(), good, "{sequence}");
    }
}

#[test]
fn a_key_serves_sixteen_ssrcs() {
    let (mut sealer, mut opener) = both(Suite::AeadAes128Gcm);
    for ssrc in 0..16 {
        let sealed = seal(&mut sealer, &rtp(1, ssrc)).unwrap();
        assert!(open(&mut opener, &sealed).is_ok());
    }
    assert_eq!(seal(&mut sealer, &rtp(1, 16)), Err(Refused::Reused));
    assert_eq!(seal(&mut sealer, &rtp(1, 3)), Err(Refused::Reused));
    assert!(seal(&mut sealer, &rtp(2, 3)).is_ok());
}

#[test]
fn reads_the_lines_that_it_writes() {
    for suite in SUITES {
        let key = Key::fresh(suite).unwrap();
        let (tag, read) = read_line(&key.line(3)).unwrap();
        assert!(tag == 3 && read == key);
    }
}

#[test]
fn reads_lines_of_other_phones() {
    let key = "inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
    let taken = |line: String| read_line(&line).is_some();
    assert!(taken(format!("1 AES_CM_128_HMAC_SHA1_80 {key}")));
    assert!(taken(format!("1 AES_CM_128_HMAC_SHA1_80 {key}|2^20")));
    assert!(taken(format!("1 AES_CM_128_HMAC_SHA1_80 {key} WSH=64")));
    assert!(!taken(format!("1 AES_CM_128_HMAC_SHA1_80 {key}|2^20|1:4")), "master key index");
    assert!(!taken(format!("1 AES_CM_128_HMAC_SHA1_80 {key} UNENCRYPTED_SRTP")));
    assert!(!taken(format!("1 AES_CM_128_HMAC_SHA1_80 {key} UNAUTHENTICATED_SRTP")));
    assert!(!taken(format!("1 AEAD_AES_128_GCM {key}")), "30 bytes are not 28");
    assert!(!taken(format!("1 AES_256_CM_HMAC_SHA1_80 {key}")));
}

proptest! {
    #[test]
    fn reading_a_line_never_panics(line in "\\PC{0,120}") {
        let _ = read_line(&line);
    }

    /// Whatever order a phone sends in, no index is sealed twice and the receiver opens all that was sealed in order.
    #[test]
    fn sealed_in_any_order_opens(start in any::<u16>(), steps in proptest::collection::vec(-70_i32..400, 1..200)) {
        let (mut sealer, mut opener) = both(Suite::AeadAes128Gcm);
        let (mut sequence, mut sealed_before) = (start, std::collections::HashSet::new());
        for step in steps {
            if let Ok(sealed) = seal(&mut sealer, &rtp(sequence, 9)) {
                prop_assert!(sealed_before.insert(sealed.clone()));
                prop_assert!(open(&mut opener, &sealed).is_ok());
            }
            sequence = sequence.wrapping_add(step as u16);
        }
    }
}
