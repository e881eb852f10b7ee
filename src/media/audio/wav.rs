//! Sound files: what a headless phone plays, and what it records.

use super::RATE;
use crate::media::MediaError;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Longest file that is played, seconds of sound: it is held in memory, 1 MB a minute.
const MAX_PLAYED: usize = 30 * 60;
/// Longest recording, samples: four hours, 230 MB.
const MAX_RECORDED: u32 = 4 * 3_600 * RATE as u32;

/// Reads a WAV file, mixed down and brought to 8 kHz. Blocking.
///
/// # Errors
/// `Io` when it cannot be read, holds nothing or is too long.
pub(super) fn read(path: &Path) -> Result<Vec<i16>, MediaError> {
    let broken = |error: hound::Error| MediaError::Io(format!("{}: {error}", path.display()));
    let reader = hound::WavReader::open(path).map_err(broken)?;
    let spec = reader.spec();
    let (rate, channels) = (spec.sample_rate as usize, usize::from(spec.channels).max(1));
    if rate == 0 || reader.duration() as usize / rate > MAX_PLAYED {
        return Err(MediaError::Io(format!("{}: longer than {} minutes", path.display(), MAX_PLAYED / 60)));
    }
    let samples: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => reader.into_samples::<f32>().collect::<Result<_, _>>().map_err(broken)?,
        hound::SampleFormat::Int => {
            let full = (1_i64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
            let samples = reader.into_samples::<i32>().map(|sample| sample.map(|sample| sample as f32 / full));
            samples.collect::<Result<_, _>>().map_err(broken)?
        }
    };
    let mono: Vec<f32> = samples.chunks_exact(channels).map(|all| all.iter().sum::<f32>() / channels as f32).collect();
    let played = resample(&mono, rate);
    if played.is_empty() { Err(MediaError::Io(format!("{}: holds no sound", path.display()))) } else { Ok(played) }
}

/// Linear interpolation; going down, each sample is the mean of those it stands for, which keeps the worst aliases out.
fn resample(from: &[f32], rate: usize) -> Vec<i16> {
    let step = rate as f64 / RATE as f64;
    let count = (from.len() as f64 / step) as usize;
    let value = |at: f64| {
        let (left, part) = (at as usize, at.fract() as f32);
        let right = from.get(left + 1).or(from.last()).copied().unwrap_or(0.0);
        from.get(left).map_or(right, |left| left * (1.0 - part) + right * part)
    };
    let spread = step.ceil().max(1.0) as usize;
    let mean = |at: f64| (0..spread).map(|i| value(at + i as f64 * step / spread as f64)).sum::<f32>() / spread as f32;
    (0..count).map(|at| (mean(at as f64 * step) * 32_767.0).clamp(-32_768.0, 32_767.0) as i16).collect()
}

/// Writes 8 kHz mono 16-bit.
pub(super) struct Recorder {
    writer: hound::WavWriter<BufWriter<File>>,
    unflushed: usize,
}

impl Recorder {
    /// # Errors
    /// `Io` when the file cannot be created.
    pub(super) fn create(path: &Path) -> Result<Recorder, MediaError> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: RATE as u32,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let broken = |error: hound::Error| MediaError::Io(format!("{}: {error}", path.display()));
        let mut writer = hound::WavWriter::create(path, spec).map_err(broken)?;
        writer.flush().map_err(broken)?;
        Ok(Recorder { writer, unflushed: 0 })
    }

    /// Appends samples; the header tells the truth again at least once per second of sound, so that a file cut short
    /// plays.
    ///
    /// # Errors
    /// The disk's. Nothing is written beyond four hours.
    pub(super) fn write(&mut self, samples: impl Iterator<Item = i16>) -> Result<(), hound::Error> {
        for sample in samples {
            if self.writer.len() >= MAX_RECORDED {
                break;
            }
            self.writer.write_sample(sample)?;
            self.unflushed += 1;
        }
        if self.unflushed >= RATE {
            self.unflushed = 0;
            self.writer.flush()?;
        }
        Ok(())
    }

    /// # Errors
    /// The disk's.
    pub(super) fn finish(self) -> Result<(), hound::Error> {
        self.writer.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tone::{Sine, strongest};
    use super::*;

    fn write(path: &Path, rate: u32, channels: u16, bits: u16, hertz: f32) {
        let sample_format = hound::SampleFormat::Int;
        let spec = hound::WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        let full = f64::from(1_u32 << (bits - 1)) * 0.4;
        for at in 0..rate {
            let turns = f64::from(at) * f64::from(hertz) / f64::from(rate);
            for _ in 0..channels {
                writer.write_sample(((turns * std::f64::consts::TAU).sin() * full) as i32).unwrap();
            }
        }
        writer.finalize().unwrap();
    }

    #[test]
    fn plays_files_of_any_rate_and_width() {
        let dir = tempfile::tempdir().unwrap();
        for (rate, channels, bits) in [(8_000, 1, 16), (48_000, 2, 24), (44_100, 2, 16), (11_025, 1, 8)] {
            let path = dir.path().join(format!("{rate}.wav"));
            write(&path, rate, channels, bits, 523.0);
            let played = read(&path).unwrap();
            assert!(played.len().abs_diff(RATE) <= 2, "{rate}: {} samples", played.len());
            let heard = strongest(&played).unwrap_or(0.0);
            assert!((heard - 523.0).abs() < 1.0, "{rate} Hz: heard {heard}");
        }
    }

    #[test]
    fn a_recording_cut_short_has_a_valid_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.wav");
        let mut recorder = Recorder::create(&path).unwrap();
        recorder.write(Sine::new(440.0).take(RATE + 100)).unwrap();
        std::mem::forget(recorder);
        assert!(hound::WavReader::open(&path).unwrap().duration() >= RATE as u32);
    }

    #[test]
    fn says_which_file_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.wav");
        std::fs::write(&path, b"RIFFnothing").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("broken.wav"));
        write(&path, 8_000, 1, 16, 440.0);
        std::fs::write(dir.path().join("empty.wav"), &std::fs::read(&path).unwrap()[..44]).unwrap();
        assert!(read(&dir.path().join("empty.wav")).is_err());
    }
}
