//! Encryption of one stream: SDES keys (RFC 4568), AEAD_AES_128_GCM (RFC 7714) between nodes, and for phones that
//! bring their own keys also AES_CM_128_HMAC_SHA1_80 (RFC 3711).
//!
//! Guards what the library leaves open: it keeps state per SSRC before it has authenticated anything, seals the same
//! sequence number twice if asked to, and takes unencrypted SRTCP without looking at its tag.

use super::MediaError;
use super::packet::{Header, Kind};
use data_encoding::BASE64_NOPAD;
use rtc_srtp::context::Context;
use rtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use rtc_srtp::protection_profile::ProtectionProfile;
use zeroize::Zeroizing;

/// Packets that may overtake each other, RFC 3711 §3.3.2's least.
const WINDOW: usize = 64;
/// SSRCs that may use one key.
const MAX_SSRCS: usize = 16;
/// Unknown SSRCs tried before the state they left is thrown away.
const MAX_TRIALS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suite {
    AeadAes128Gcm,
    AesCm128HmacSha1_80,
}

impl Suite {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Suite::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Suite::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
        }
    }

    fn by_name(name: &str) -> Option<Suite> {
        [Suite::AeadAes128Gcm, Suite::AesCm128HmacSha1_80].into_iter().find(|s| s.name().eq_ignore_ascii_case(name))
    }

    fn profile(self) -> ProtectionProfile {
        match self {
            Suite::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            Suite::AesCm128HmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        }
    }

    /// Master key and master salt, bytes.
    fn key_len(self) -> usize {
        self.profile().key_len() + self.profile().salt_len()
    }
}

/// A master key with its salt, as one `a=crypto` line carries it. Not `Debug`: it must not reach a log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) suite: Suite,
    bytes: Zeroizing<Vec<u8>>,
}

impl Key {
    /// # Errors
    /// `Io` when the system has no randomness.
    pub(super) fn fresh(suite: Suite) -> Result<Key, MediaError> {
        let mut bytes = Zeroizing::new(vec![0; suite.key_len()]);
        getrandom::fill(&mut bytes).map_err(|error| MediaError::Io(error.to_string()))?;
        Ok(Key { suite, bytes })
    }

    /// The value of an `a=crypto` attribute (RFC 4568 §9.1).
    pub(super) fn line(&self, tag: u32) -> Zeroizing<String> {
        let key = Zeroizing::new(data_encoding::BASE64.encode(&self.bytes));
        Zeroizing::new(format!("{tag} {} inline:{}", self.suite.name(), key.as_str()))
    }

    fn context(&self, protected: bool) -> Result<Context, MediaError> {
        let broken = |error: &dyn std::fmt::Display| MediaError::Io(error.to_string());
        let provider = rtc_srtp::crypto::default_provider().map_err(|error| broken(&error))?;
        let profile = self.suite.profile();
        let (key, salt) = self.bytes.split_at(profile.key_len());
        let rtp = protected.then(|| srtp_replay_protection(WINDOW));
        let rtcp = protected.then(|| srtcp_replay_protection(WINDOW));
        Context::new(key, salt, profile, rtp, rtcp, provider.crypto()).map_err(|error| broken(&error))
    }
}

/// Reads the value of an `a=crypto` attribute: tag and key. `None` for suites, key parameters and session parameters
/// that are not understood (RFC 4568 §6.3: such a line is not taken), and for lines without authentication.
pub(super) fn read_line(value: &str) -> Option<(u32, Key)> {
    let mut words = value.split_ascii_whitespace();
    let tag = words.next().filter(|tag| tag.len() <= 9)?.parse().ok()?;
    let suite = Suite::by_name(words.next()?)?;
    let key = words.next()?.strip_prefix("inline:")?;
    let known = |word: &str| word.starts_with('-') || word.starts_with("WSH=") || word == "KDR=0";
    if !words.all(known) {
        return None;
    }
    // `key|2^31|1:4`: a lifetime is bounded by re-offers anyway; a master key index would change the packets.
    let (key, parameters) = key.split_once('|').unwrap_or((key, ""));
    if parameters.contains(':') || key.contains(';') {
        return None;
    }
    let bytes = Zeroizing::new(BASE64_NOPAD.decode(key.trim_end_matches('=').as_bytes()).ok()?);
    (bytes.len() == suite.key_len()).then_some((tag, Key { suite, bytes }))
}

/// Why a packet was not opened or not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not made with the key, altered, or seen before.
    Forged,
    /// One SSRC too many, or a sequence number that this key has used up.
    Reused,
}

/// Encrypts what we send.
pub(super) struct Sealer {
    context: Context,
    used: Vec<(u32, Used)>,
    reports: Vec<u32>,
}

impl Sealer {
    /// # Errors
    /// `Io` when the cipher is not to be had.
    pub(super) fn new(key: &Key) -> Result<Sealer, MediaError> {
        Ok(Sealer { context: key.context(false)?, used: Vec::new(), reports: Vec::new() })
    }

    /// Encrypts a packet whose header was read from it.
    ///
    /// # Errors
    /// `Reused` for a sequence number that was sealed before: under AES-GCM a second packet with the same number would
    /// give both away and the authentication key with them (RFC 7714 §8.4).
    pub(super) fn seal(&mut self, header: &Header, packet: &[u8]) -> Result<bytes::BytesMut, Refused> {
        match header.kind {
            Kind::Rtp => {
                let used = match self.used.iter_mut().position(|(ssrc, _)| *ssrc == header.ssrc) {
                    Some(at) => &mut self.used[at].1,
                    None if self.used.len() < MAX_SSRCS => {
                        self.used.push((header.ssrc, Used::new(header.sequence)));
                        let last = self.used.len() - 1;
                        &mut self.used[last].1
                    }
                    None => return Err(Refused::Reused),
                };
                if !used.take(header.sequence) {
                    return Err(Refused::Reused);
                }
                self.context.encrypt_rtp(packet).map_err(|_| Refused::Forged)
            }
            Kind::Rtcp => {
                remember(&mut self.reports, header.ssrc)?;
                self.context.encrypt_rtcp(packet).map_err(|_| Refused::Forged)
            }
        }
    }
}

/// Sequence numbers of one SSRC that a key has sealed. Accepts what the library numbers the way that the receiver
/// will: ahead by less than half the circle, or among the last 64 and new.
struct Used {
    start: u64,
    highest: u64,
    seen: u64,
}

impl Used {
    fn new(first: u16) -> Used {
        Used { start: u64::from(first), highest: u64::from(first), seen: 0 }
    }

    fn take(&mut self, sequence: u16) -> bool {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        if (1..0x8000).contains(&ahead) {
            self.highest += u64::from(ahead);
            self.seen = self.seen.checked_shl(u32::from(ahead)).unwrap_or(0) | 1;
            return true;
        }
        let behind = u64::from(ahead.wrapping_neg());
        let mark = 1_u64.checked_shl(behind as u32).unwrap_or(0);
        if mark == 0 || self.seen & mark != 0 || self.highest.saturating_sub(self.start) < behind {
            return false;
        }
        self.seen |= mark;
        true
    }
}

/// Decrypts what we receive.
pub(super) struct Opener {
    key: Key,
    context: Context,
    /// Tries SSRCs that have not proved anything yet, so that `context` only ever knows ones that have.
    trial: Context,
    trials: usize,
    sources: Vec<u32>,
    reports: Vec<u32>,
}

impl Opener {
    /// # Errors
    /// `Io` when the cipher is not to be had.
    pub(super) fn new(key: Key) -> Result<Opener, MediaError> {
        let (context, trial) = (key.context(true)?, key.context(false)?);
        Ok(Opener { key, context, trial, trials: 0, sources: Vec::new(), reports: Vec::new() })
    }

    /// Whether this opens what `key` sealed.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.key == *key
    }

    /// Whether a packet of this SSRC was opened before.
    pub(super) fn knows(&self, header: &Header) -> bool {
        match header.kind {
            Kind::Rtp => self.sources.contains(&header.ssrc),
            Kind::Rtcp => self.reports.contains(&header.ssrc),
        }
    }

    /// Checks and decrypts.
    ///
    /// # Errors
    /// `Forged` when altered, replayed or not made with the key; `Reused` when the key has too many SSRCs.
    pub(super) fn open(&mut self, header: &Header, packet: &[u8]) -> Result<bytes::BytesMut, Refused> {
        if header.kind == Kind::Rtcp && !self.says_encrypted(packet) {
            return Err(Refused::Forged);
        }
        if !self.knows(header) {
            self.try_unknown(header, packet)?;
        }
        let opened = match header.kind {
            Kind::Rtp => self.context.decrypt_rtp(packet),
            Kind::Rtcp => self.context.decrypt_rtcp(packet),
        };
        opened.map_err(|_| Refused::Forged)
    }

    fn try_unknown(&mut self, header: &Header, packet: &[u8]) -> Result<(), Refused> {
        if self.trials >= MAX_TRIALS {
            self.trial = self.key.context(false).map_err(|_| Refused::Forged)?;
            self.trials = 0;
        }
        self.trials += 1;
        let (opened, known) = match header.kind {
            Kind::Rtp => (self.trial.decrypt_rtp(packet), &mut self.sources),
            Kind::Rtcp => (self.trial.decrypt_rtcp(packet), &mut self.reports),
        };
        opened.map_err(|_| Refused::Forged)?;
        remember(known, header.ssrc)
    }

    /// RFC 3711 §3.4: the E bit. The library returns packets without it unchecked.
    fn says_encrypted(&self, packet: &[u8]) -> bool {
        let from_end = 4 + self.key.suite.profile().rtcp_auth_tag_len();
        packet.len().checked_sub(from_end).and_then(|at| packet.get(at)).is_some_and(|byte| byte & 0x80 != 0)
    }
}

fn remember(known: &mut Vec<u32>, ssrc: u32) -> Result<(), Refused> {
    if !known.contains(&ssrc) {
        if known.len() >= MAX_SSRCS {
            return Err(Refused::Reused);
        }
        known.push(ssrc);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
