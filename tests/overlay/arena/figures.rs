//! What is stated of a measurement: rates with their 95 % interval (Wilson), times at percentiles, CPU.

use serde_json::{Value, json};
use std::time::Duration;

/// Bounds of the true rate at 95 %, in percent.
pub fn wilson(good: usize, of: usize) -> (f64, f64) {
    if of == 0 {
        return (0.0, 100.0);
    }
    let (n, z) = (of as f64, 1.959_964_f64);
    let p = good as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    (100.0 * ((middle - spread) / scale).max(0.0), 100.0 * ((middle + spread) / scale).min(1.0))
}

pub fn rate(good: usize, of: usize) -> Value {
    let (low, high) = wilson(good, of);
    let digits = |x: f64| (x * 1_000.0).round() / 1_000.0;
    json!({
        "good": good, "of": of, "failures": of - good,
        "percent": digits(100.0 * good as f64 / of.max(1) as f64), "interval_95": [digits(low), digits(high)],
    })
}

/// In milliseconds.
pub fn times(times: &[Duration]) -> Value {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |of_thousand: usize| {
        let n = (sorted.len() * of_thousand / 1_000).min(sorted.len().saturating_sub(1));
        sorted.get(n).map(|time| (time.as_secs_f64() * 1e5).round() / 100.0)
    };
    json!({ "n": sorted.len(), "p50_ms": at(500), "p90_ms": at(900), "p99_ms": at(990), "max_ms": at(1_000) })
}

/// User and system time of this process so far.
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn the_interval_is_wilsons() {
    let (low, high) = wilson(4_000, 4_000);
    assert!(low > 99.9 && (high - 100.0).abs() < 1e-9);
    let (low, high) = wilson(50, 100);
    assert!((low - 40.38).abs() < 0.01 && (high - 59.62).abs() < 0.01);
}
