//! "401, then slower": failures of a source, of an account, and of one account from one source.
//!
//! A phone with a wrong password must not shut out its neighbours behind the same address, nor a stranger the owner of
//! an account: where an account was proven lately, only failures of that very pair count.

use super::table::Table;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Rows kept of failures, and of proven pairs. About 100 bytes each.
const MAX_ROWS: usize = 16_384;
/// Failures without consequence: someone is still typing.
const FREE_PAIR: u32 = 3;
/// Failures of all accounts from one source: an office of phones behind one address may be set up wrongly for a while.
const FREE_SOURCE: u32 = 20;
/// Failures of one account from everywhere: a guess spread over many sources.
const FREE_ACCOUNT: u32 = 50;
/// The first delay; it doubles with each failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest, well inside the 32 s that a phone waits for an answer.
const LONGEST_DELAY: Duration = Duration::from_secs(8);
/// Failures are forgotten this long after the last one.
const FORGET: Duration = Duration::from_secs(600);
/// A proven pair is trusted this long: one registration period.
const TRUST: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Row {
    Pair(Option<IpAddr>, String),
    Source(Option<IpAddr>),
    Account(String),
}

impl Row {
    fn free(&self) -> u32 {
        match self {
            Self::Pair(..) => FREE_PAIR,
            Self::Source(_) => FREE_SOURCE,
            Self::Account(_) => FREE_ACCOUNT,
        }
    }
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    until: Instant,
}

pub(super) struct Penalties {
    failures: Table<Row, Failures>,
    proven: Table<(Option<IpAddr>, String), Instant>,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { failures: Table::new(MAX_ROWS), proven: Table::new(MAX_ROWS) }
    }
}

impl Penalties {
    /// Whether credentials for `name` from `source` are not looked at now.
    pub fn blocked(&self, source: Option<IpAddr>, name: &str, now: Instant) -> bool {
        rows(source, name, self.trusted(source, name, now)).iter().any(|row| self.until(row) > Some(now))
    }

    /// Notes a failure; how long its answer is to be held back (and further guesses are ignored).
    pub fn failed(&mut self, source: Option<IpAddr>, name: &str, now: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        for row in rows(source, name, self.trusted(source, name, now)) {
            let before = self.failures.get(&row).filter(|row| now.saturating_duration_since(row.last) < FORGET);
            let count = before.map_or(0, |row| row.count).saturating_add(1);
            let delay = delay(count, row.free());
            longest = longest.max(delay);
            self.failures.put(row, Failures { count, last: now, until: now + delay });
        }
        longest
    }

    /// The password was proven: the pair is clean and trusted.
    pub fn proven(&mut self, source: Option<IpAddr>, name: &str, now: Instant) {
        let source = source.map(network);
        self.failures.remove(&Row::Pair(source, name.to_owned()));
        self.proven.put((source, name.to_owned()), now);
    }

    fn trusted(&self, source: Option<IpAddr>, name: &str, now: Instant) -> bool {
        let proven = self.proven.get(&(source.map(network), name.to_owned()));
        proven.is_some_and(|at| now.saturating_duration_since(*at) < TRUST)
    }

    fn until(&self, row: &Row) -> Option<Instant> {
        self.failures.get(row).map(|failures| failures.until)
    }

    #[cfg(test)]
    pub fn rows(&self) -> usize {
        self.failures.len()
    }
}

/// The rows that count for a request.
fn rows(source: Option<IpAddr>, name: &str, trusted: bool) -> Vec<Row> {
    let source = source.map(network);
    let pair = Row::Pair(source, name.to_owned());
    if trusted { vec![pair] } else { vec![pair, Row::Source(source), Row::Account(name.to_owned())] }
}

fn delay(count: u32, free: u32) -> Duration {
    match count.checked_sub(free + 1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(LONGEST_DELAY),
    }
}

/// One row per IPv4 address and per IPv6 /64: a host has a whole /64 to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}
