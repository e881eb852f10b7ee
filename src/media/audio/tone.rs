//! Tones: making a sine, and recognising the strongest one in what was heard.

use super::RATE;
use std::f32::consts::TAU;

/// Points of the transform: more than a second of samples, bins of about 1 Hz.
const POINTS: usize = 8_192;
/// Fewest samples worth judging: a quarter of a second.
const LEAST: usize = RATE / 4;
/// What a telephone carries, Hz, with a margin.
const BAND: std::ops::RangeInclusive<f32> = 15.0..=3_900.0;
/// A tone stands out when it holds so much of all energy (it is 6 dB above everything else together)...
const SHARE: f32 = 0.8;
/// ...and is not just the hiss of an idle line: mean square of a tone at -54 dB.
const FLOOR: f32 = 2_000.0;

/// A sine at -9 dB, continuous from one packet to the next.
#[derive(Debug)]
pub(super) struct Sine {
    /// Turns per sample, and turns so far.
    step: f32,
    phase: f32,
}

impl Sine {
    pub(super) fn new(hertz: f32) -> Sine {
        Sine { step: hertz / RATE as f32, phase: 0.0 }
    }
}

impl Iterator for Sine {
    type Item = i16;

    fn next(&mut self) -> Option<i16> {
        let sample = (self.phase * TAU).sin() * 11_600.0;
        self.phase = (self.phase + self.step).fract();
        Some(sample as i16)
    }
}

/// The strongest frequency of `samples` (the last [`POINTS`] of them), Hz, when it stands out.
pub(super) fn strongest(samples: &[i16]) -> Option<f32> {
    let samples = &samples[samples.len().saturating_sub(POINTS)..];
    let count = samples.len();
    if count < LEAST {
        return None;
    }
    // Hann's window keeps a tone between two bins together: its main lobe is four bins of a transform of this length.
    let window = |at: usize| 0.5 - 0.5 * (TAU * at as f32 / count as f32).cos();
    let mut values = vec![(0.0, 0.0); POINTS];
    for (at, (value, sample)) in values.iter_mut().zip(samples).enumerate() {
        value.0 = f32::from(*sample) * window(at);
    }
    transform(&mut values);
    let power: Vec<f32> = values[..POINTS / 2].iter().map(|(re, im)| re * re + im * im).collect();
    let bin = |hertz: f32| (hertz * POINTS as f32 / RATE as f32) as usize;
    let (low, high) = (bin(*BAND.start()), bin(*BAND.end()));
    let peak = (low..high).max_by(|a, b| power[*a].total_cmp(&power[*b]))?;
    let half_lobe = 2 * POINTS.div_ceil(count) + 1;
    let near: f32 = power[peak.saturating_sub(half_lobe)..(peak + half_lobe).min(power.len())].iter().sum();
    let all: f32 = power[low..].iter().sum();
    // Parseval: half the spectrum holds half the energy; the window keeps 3/8 of it.
    let mean_square = all * 2.0 / POINTS as f32 / count as f32 / 0.375;
    if mean_square < FLOOR || near < SHARE * all {
        return None;
    }
    Some((peak as f32 + between(&power, peak)) * RATE as f32 / POINTS as f32)
}

/// Where between the neighbouring bins the top of the parabola through three powers lies (in decibels it is one).
fn between(power: &[f32], peak: usize) -> f32 {
    let level = |at: Option<usize>| at.and_then(|at| power.get(at)).map_or(0.0, |power| power.max(1e-9).ln());
    let (left, top, right) = (level(peak.checked_sub(1)), level(Some(peak)), level(Some(peak + 1)));
    let bend = left - 2.0 * top + right;
    if bend.abs() < 1e-6 { 0.0 } else { ((left - right) / (2.0 * bend)).clamp(-0.5, 0.5) }
}

/// Fourier transform in place, radix 2; `values` has a power of two as length.
fn transform(values: &mut [(f32, f32)]) {
    let count = values.len();
    let shift = usize::BITS - count.trailing_zeros();
    for at in 0..count {
        let mirrored = at.reverse_bits() >> shift;
        if at < mirrored {
            values.swap(at, mirrored);
        }
    }
    let turns: Vec<(f32, f32)> = (0..count / 2).map(|k| (-TAU * k as f32 / count as f32).sin_cos()).collect();
    let mut size = 2;
    while size <= count {
        for block in values.chunks_exact_mut(size) {
            let (low, high) = block.split_at_mut(size / 2);
            for (k, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let (sin, cos) = turns[k * (count / size)];
                let turned = (b.0 * cos - b.1 * sin, b.0 * sin + b.1 * cos);
                *b = (a.0 - turned.0, a.1 - turned.1);
                *a = (a.0 + turned.0, a.1 + turned.1);
            }
        }
        size *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// White noise of the given amplitude, the same each time.
    fn noise(amplitude: i32) -> impl Iterator<Item = i32> {
        let mut state = 0x1234_5678_u32;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as i32 % (2 * amplitude + 1) - amplitude
        })
    }

    #[test]
    fn names_each_tone_within_one_hertz() {
        for hertz in [20.0, 50.0, 300.0, 440.0, 617.3, 1_000.0, 2_222.2, 3_400.0] {
            for count in [LEAST * 2, RATE] {
                let samples: Vec<i16> = Sine::new(hertz).take(count).collect();
                let heard = strongest(&samples).unwrap_or(0.0);
                assert!((heard - hertz).abs() < 1.0, "{hertz} Hz heard as {heard} in {count} samples");
            }
        }
    }

    #[test]
    fn hears_a_tone_through_noise_and_gaps_but_invents_none() {
        let noisy: Vec<i16> = Sine::new(700.0).zip(noise(3_000)).map(|(s, n)| s + n as i16).take(RATE).collect();
        assert!(strongest(&noisy).is_some_and(|heard| (heard - 700.0).abs() < 1.0));
        let mut holed: Vec<i16> = Sine::new(700.0).take(RATE).collect();
        holed[3_200..3_360].fill(0);
        assert!(strongest(&holed).is_some_and(|heard| (heard - 700.0).abs() < 1.0));
        let hiss: Vec<i16> = noise(8_000).map(|n| n as i16).take(RATE).collect();
        assert_eq!(strongest(&hiss), None);
        assert_eq!(strongest(&[0; RATE]), None);
        let faint: Vec<i16> = Sine::new(440.0).map(|s| s / 400).take(RATE).collect();
        assert_eq!(strongest(&faint), None);
        let two: Vec<i16> = Sine::new(500.0).zip(Sine::new(900.0)).map(|(a, b)| a / 2 + b / 2).take(RATE).collect();
        assert_eq!(strongest(&two), None, "neither stands out");
    }
}
