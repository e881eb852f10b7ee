//! Who may connect, be asked and store: pure limits. Counts per address and per subnet, caps for the routing table,
//! and token buckets. The time comes in as an argument; what the limits are for is said where they are used.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The network that one owner usually has: a /24 of IPv4, a /48 of IPv6 (SECURITY §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet(IpAddr);

impl Subnet {
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self(IpAddr::V4(Ipv4Addr::from(u32::from(v4) & 0xffff_ff00))),
            IpAddr::V6(v6) => Self(IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 80)))),
        }
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("too many connections from one address")]
    PerAddress,
    #[error("too many connections from one network")]
    PerSubnet,
}

/// Counts inbound connections, pending ones included. Loopback is not counted: who is on this machine can do worse.
#[derive(Debug)]
pub struct Inbound {
    per_address: u32,
    per_subnet: u32,
    addresses: HashMap<IpAddr, u32>,
    subnets: HashMap<Subnet, u32>,
}

impl Inbound {
    pub fn new(per_address: u32, per_subnet: u32) -> Self {
        Self { per_address, per_subnet, addresses: HashMap::new(), subnets: HashMap::new() }
    }

    /// Counts one more from `ip`.
    ///
    /// # Errors
    /// Which bound it would break; then nothing is counted.
    pub fn admit(&mut self, ip: IpAddr) -> Result<(), Refusal> {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return Ok(());
        }
        let subnet = Subnet::of(ip);
        if self.addresses.get(&ip).is_some_and(|n| *n >= self.per_address) {
            return Err(Refusal::PerAddress);
        }
        if self.subnets.get(&subnet).is_some_and(|n| *n >= self.per_subnet) {
            return Err(Refusal::PerSubnet);
        }
        *self.addresses.entry(ip).or_default() += 1;
        *self.subnets.entry(subnet).or_default() += 1;
        Ok(())
    }

    /// Takes back what [`admit`](Self::admit) counted.
    pub fn release(&mut self, ip: IpAddr) {
        let ip = ip.to_canonical();
        decrease(&mut self.addresses, &ip);
        decrease(&mut self.subnets, &Subnet::of(ip));
    }
}

fn decrease<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

/// How many a second, and how many at once.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

impl Bucket {
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    /// It is not full again yet.
    pub fn is_used(&self, rate: Rate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        self.tokens + passed.as_secs_f64() * rate.per_second < rate.burst
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let has = self.tokens(rate, now) >= 1.0;
        if has {
            self.spend(1);
        }
        has
    }

    /// How many there are.
    pub fn tokens(&mut self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        self.tokens = (self.tokens + passed.as_secs_f64() * rate.per_second).min(rate.burst);
        self.tokens
    }

    /// Takes so many, which are there.
    pub fn spend(&mut self, tokens: usize) {
        self.tokens -= tokens as f64;
    }
}

/// One token bucket per source, for at most `max` sources; a source that does not fit shares the last bucket.
#[derive(Debug)]
pub struct PerSource<K> {
    rate: Rate,
    max: usize,
    forgets: bool,
    buckets: HashMap<K, Bucket>,
    shared: Option<Bucket>,
}

impl<K: Hash + Eq> PerSource<K> {
    pub fn new(rate: Rate, max: usize) -> Self {
        Self { rate, max, forgets: false, buckets: HashMap::new(), shared: None }
    }

    /// For sources that cost nothing, as peer ids do: when there are too many, the half that came longest ago is forgotten.
    /// A shared bucket would have the honest stand in line with whoever makes names by the thousand; what all of those may
    /// do together is bounded elsewhere.
    pub fn of_free_names(rate: Rate, max: usize) -> Self {
        Self { forgets: true, ..Self::new(rate, max) }
    }

    /// Takes a token of `source`.
    pub fn take(&mut self, source: K, now: Instant) -> bool {
        let rate = self.rate;
        if self.buckets.len() >= self.max && !self.buckets.contains_key(&source) {
            let refill = Duration::from_secs_f64(rate.burst / rate.per_second);
            self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.at) < refill);
            if self.forgets && self.buckets.len() >= self.max {
                self.forget_half();
            }
            if self.buckets.len() >= self.max {
                return self.shared.get_or_insert_with(|| Bucket::full(rate, now)).take(rate, now);
            }
        }
        self.buckets.entry(source).or_insert_with(|| Bucket::full(rate, now)).take(rate, now)
    }

    fn forget_half(&mut self) {
        let mut times: Vec<Instant> = self.buckets.values().map(|bucket| bucket.at).collect();
        let middle = times.len() / 2;
        let (_, at, _) = times.select_nth_unstable(middle);
        let at = *at;
        // Of those of the middle's own moment as many as are needed.
        let mut surplus = middle;
        self.buckets.retain(|_, bucket| {
            let stays = bucket.at > at || surplus == 0;
            surplus -= usize::from(!stays);
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn counts_per_address_and_per_subnet() {
        let mut inbound = Inbound::new(2, 3);
        assert_eq!(inbound.admit(ip("1.2.3.4")), Ok(()));
        assert_eq!(inbound.admit(ip("::ffff:1.2.3.4")), Ok(()), "the same address in IPv6 clothes");
        assert_eq!(inbound.admit(ip("1.2.3.4")), Err(Refusal::PerAddress));
        assert_eq!(inbound.admit(ip("1.2.3.5")), Ok(()));
        assert_eq!(inbound.admit(ip("1.2.3.6")), Err(Refusal::PerSubnet));
        assert_eq!(inbound.admit(ip("1.2.4.6")), Ok(()));
        inbound.release(ip("1.2.3.4"));
        assert_eq!(inbound.admit(ip("1.2.3.6")), Ok(()));
        for _ in 0..100 {
            assert_eq!(inbound.admit(ip("127.0.0.1")), Ok(()));
        }
    }

    #[test]
    fn keeps_nothing_of_those_who_left() {
        let mut inbound = Inbound::new(2, 3);
        for n in 0..1000_u32 {
            let ip = IpAddr::V4(Ipv4Addr::from(0x0800_0000 + n * 256));
            inbound.admit(ip).unwrap();
            inbound.release(ip);
            inbound.release(ip);
        }
        assert!(inbound.addresses.is_empty() && inbound.subnets.is_empty());
    }

    #[test]
    fn a_subnet_is_a_48_in_ipv6() {
        assert_eq!(Subnet::of(ip("2a00:1:2:3::4")), Subnet::of(ip("2a00:1:2:ffff::1")));
        assert_ne!(Subnet::of(ip("2a00:1:2:3::4")), Subnet::of(ip("2a00:1:3:3::4")));
    }

    #[test]
    fn a_bucket_refills_with_time() {
        let rate = Rate { per_second: 2.0, burst: 3.0 };
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        assert_eq!((0..5).filter(|_| bucket.take(rate, start)).count(), 3);
        assert!(!bucket.take(rate, start + Duration::from_millis(400)));
        assert!(bucket.take(rate, start + Duration::from_millis(600)));
    }

    #[test]
    fn sources_are_bounded() {
        let start = Instant::now();
        let mut sources = PerSource::new(Rate { per_second: 1.0, burst: 1.0 }, 10);
        let admitted = (0..1000).filter(|n| sources.take(*n, start)).count();
        assert_eq!(admitted, 11, "ten of their own and the shared one");
        assert!(sources.take(2000, start + Duration::from_secs(5)), "old ones make room");
    }

    #[test]
    fn who_makes_names_by_the_thousand_shuts_nobody_out() {
        let start = Instant::now();
        let mut sources = PerSource::of_free_names(Rate { per_second: 1.0, burst: 10.0 }, 100);
        let mut honest = 0;
        for n in 0..10_000_u32 {
            let now = start + Duration::from_millis(n.into());
            sources.take(n, now);
            if n % 1_000 == 999 {
                honest += usize::from(sources.take(1_000_000 + n, now));
                honest += usize::from(sources.take(2_000_000, now));
            }
        }
        assert_eq!(honest, 20);
        assert!(sources.buckets.len() <= 100);
        // All in one moment.
        (0..1_000).for_each(|n| assert!(sources.take(3_000_000 + n, start + Duration::from_secs(100))));
        assert!((50..=100).contains(&sources.buckets.len()), "{}", sources.buckets.len());
    }
}
