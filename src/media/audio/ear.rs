//! What a headless phone hears: packets in, samples and figures out. Pure but for the recording.

use super::g711::Law;
use super::wav::Recorder;
use super::{Heard, RATE, tone};
use crate::media::packet::Header;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Longest pause between two packets that is filled with silence (hold, silence suppression), samples: ten seconds.
/// A larger step of the timestamp is a new stream.
const LONGEST_PAUSE: u32 = 10 * RATE as u32;
/// After so long without a packet nothing is being heard.
const MEMORY: Duration = Duration::from_secs(1);

pub(super) struct Ear {
    started: Instant,
    recorder: Option<Recorder>,
    last_second: VecDeque<i16>,
    packets: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    stream: Option<Stream>,
    lost_before: u64,
}

/// One SSRC: RFC 3550 §A.3's counts, and the timestamp that should come next.
struct Stream {
    ssrc: u32,
    start: u64,
    highest: u64,
    received: u64,
    next: Option<u32>,
}

impl Stream {
    fn lost(&self) -> u64 {
        (self.highest - self.start + 1).saturating_sub(self.received)
    }
}

impl Ear {
    pub(super) fn new(recorder: Option<Recorder>, now: Instant) -> Ear {
        Ear {
            started: now,
            recorder,
            last_second: VecDeque::with_capacity(RATE),
            packets: 0,
            first: None,
            last: None,
            stream: None,
            lost_before: 0,
        }
    }

    /// The call begins: times count from here unless something was heard before.
    pub(super) fn start(&mut self, now: Instant) {
        if self.first.is_none() {
            self.started = now;
        }
    }

    /// Takes an RTP packet; payloads other than G.711 count but are not heard.
    pub(super) fn hear(&mut self, header: &Header, payload: &[u8], now: Instant) {
        self.packets += 1;
        self.first.get_or_insert(now);
        self.last = Some(now);
        let stream = match &mut self.stream {
            Some(stream) if stream.ssrc == header.ssrc => stream,
            other => {
                self.lost_before += other.as_ref().map_or(0, Stream::lost);
                let at = u64::from(header.sequence) + 0x1_0000;
                other.insert(Stream { ssrc: header.ssrc, start: at, highest: at, received: 0, next: None })
            }
        };
        stream.received += 1;
        let ahead = header.sequence.wrapping_sub(stream.highest as u16);
        if ahead < 0x8000 {
            stream.highest += u64::from(ahead);
        }
        let Some(law) = Law::by_payload_type(header.payload_type) else { return };
        let pause = stream.next.map_or(0, |next| header.timestamp.wrapping_sub(next));
        if pause > u32::MAX / 2 {
            return; // Late: its place is already silent.
        }
        stream.next = Some(header.timestamp.wrapping_add(payload.len() as u32));
        let silence = if pause <= LONGEST_PAUSE { pause as usize } else { 0 };
        self.take(silence, payload.iter().map(|byte| law.decode(*byte)));
    }

    fn take(&mut self, silence: usize, samples: impl Iterator<Item = i16> + Clone) {
        let samples = std::iter::repeat_n(0, silence).chain(samples);
        for sample in samples.clone() {
            if self.last_second.len() == RATE {
                self.last_second.pop_front();
            }
            self.last_second.push_back(sample);
        }
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.write(samples)
        {
            tracing::warn!(%error, "the recording stopped");
            self.recorder = None;
        }
    }

    /// What was heard up to now, and the samples from which to tell the tone.
    fn so_far(&self, now: Instant) -> (Heard, Vec<i16>) {
        let hears = self.last.is_some_and(|last| now.saturating_duration_since(last) < MEMORY);
        let samples = if hears { self.last_second.iter().copied().collect() } else { Vec::new() };
        let millis = |first: Instant| u64::try_from(first.saturating_duration_since(self.started).as_millis()).ok();
        let heard = Heard {
            packets: self.packets,
            tone_hz: None,
            first_packet_ms: self.first.and_then(millis),
            lost: self.lost_before + self.stream.as_ref().map_or(0, Stream::lost),
        };
        (heard, samples)
    }

    #[cfg(test)]
    pub(super) fn hears_at_least(&self, packets: u64) -> bool {
        self.packets >= packets
    }

    /// Completes the recording.
    pub(super) fn finish(&mut self) {
        if let Some(Err(error)) = self.recorder.take().map(Recorder::finish) {
            tracing::warn!(%error, "the recording was not completed");
        }
    }
}

/// What `ear` heard; the tone is worked out after its lock is free again.
pub(super) fn heard(ear: &std::sync::Mutex<Ear>, now: Instant) -> Heard {
    let (heard, samples) = crate::media::stream::lock(ear).so_far(now);
    Heard { tone_hz: tone::strongest(&samples), ..heard }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::packet::{self, write_rtp};
    use std::sync::Mutex;

    fn packet(sequence: u16, timestamp: u32, ssrc: u32, payload_type: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_rtp(&mut bytes, false, (payload_type, sequence, timestamp, ssrc), &[0x80; 160]);
        bytes
    }

    fn hear(ear: &mut Ear, bytes: &[u8], now: Instant) {
        let header = packet::read(bytes).unwrap();
        ear.hear(&header, &bytes[header.len..], now);
    }

    #[test]
    fn counts_what_was_lost_over_the_turn_of_the_numbers() {
        let now = Instant::now();
        let mut ear = Ear::new(None, now);
        for sequence in [65_534, 65_535, 1, 0, 4] {
            hear(&mut ear, &packet(sequence, 0, 1, 0), now);
        }
        assert_eq!(ear.so_far(now).0.lost, 2, "2 and 3");
        hear(&mut ear, &packet(100, 0, 2, 0), now);
        hear(&mut ear, &packet(102, 0, 2, 0), now);
        let (heard, _) = ear.so_far(now);
        assert_eq!((heard.packets, heard.lost), (7, 3));
    }

    #[test]
    fn puts_silence_where_packets_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heard.wav");
        let now = Instant::now();
        let mut ear = Ear::new(Some(Recorder::create(&path).unwrap()), now);
        hear(&mut ear, &packet(1, 1_000, 1, 0), now);
        hear(&mut ear, &packet(3, 1_320, 1, 0), now);
        hear(&mut ear, &packet(2, 1_160, 1, 0), now);
        hear(&mut ear, &packet(4, 1_480, 1, 101), now);
        hear(&mut ear, &packet(5, 1_640, 1, 0), now);
        ear.finish();
        let samples: Vec<i16> = hound::WavReader::open(&path).unwrap().samples().map(Result::unwrap).collect();
        assert_eq!(samples.len(), 5 * 160);
        let silent: Vec<bool> = samples.chunks(160).map(|chunk| chunk.iter().all(|sample| *sample == 0)).collect();
        assert_eq!(silent, [false, true, false, true, false], "the lost packet and the keypress");
    }

    #[test]
    fn a_pause_of_an_hour_does_not_fill_the_disk() {
        let now = Instant::now();
        let mut ear = Ear::new(None, now);
        hear(&mut ear, &packet(1, 0, 1, 0), now);
        hear(&mut ear, &packet(2, 3_600 * 8_000, 1, 0), now);
        assert_eq!(ear.last_second.len(), 320);
    }

    #[test]
    fn forgets_the_tone_of_a_far_end_that_fell_silent() {
        let (now, mut ear) = (Instant::now(), Ear::new(None, Instant::now()));
        let mut sine = tone::Sine::new(440.0);
        for sequence in 0..50_u16 {
            let payload: Vec<u8> = sine.by_ref().take(160).map(|sample| Law::A.encode(sample)).collect();
            let mut bytes = Vec::new();
            write_rtp(&mut bytes, false, (8, sequence, u32::from(sequence) * 160, 1), &payload);
            hear(&mut ear, &bytes, now);
        }
        let ear = Mutex::new(ear);
        assert!(heard(&ear, now).tone_hz.is_some_and(|hertz| (hertz - 440.0).abs() < 1.0));
        assert_eq!(heard(&ear, now + MEMORY).tone_hz, None);
    }
}
