//! How long to wait: what is slow is told by what was answered so far (draft-matuszewski-p2psip-security §5.5:
//! adaptive, three times the 95th percentile, never below 0.7 s).

use std::time::Duration;

/// Below this a connection over a satellite, or to a busy telephone, is silent.
const FLOOR: Duration = Duration::from_millis(700);

/// Answers before their times say something.
const ENOUGH: usize = 8;

#[derive(Debug)]
pub struct Pace {
    most: Duration,
    times: Vec<Duration>,
}

impl Pace {
    pub fn new(most: Duration) -> Self {
        Self { most, times: Vec::new() }
    }

    pub fn answered(&mut self, after: Duration) {
        let at = self.times.partition_point(|other| *other < after);
        self.times.insert(at, after);
    }

    /// When a question is overdue.
    pub fn soft(&self) -> Duration {
        if self.times.len() < ENOUGH {
            return self.most;
        }
        let p95 = self.times.get(self.times.len() * 95 / 100).copied().unwrap_or(self.most);
        (p95 * 3).max(FLOOR).min(self.most)
    }
}
