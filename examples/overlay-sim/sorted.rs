//! Points of the space in order, by the first 64 bits of their positions, and who of them is near by XOR.

use std::ops::Range;

/// Heads in rising order.
#[derive(Clone, Debug, Default)]
pub struct Sorted {
    heads: Vec<u64>,
}

impl Sorted {
    /// `heads` are in rising order.
    pub fn new(heads: Vec<u64>) -> Self {
        debug_assert!(heads.is_sorted());
        Self { heads }
    }

    pub fn head(&self, index: usize) -> u64 {
        self.heads[index]
    }

    /// Those whose first `bits` are those of `point`.
    pub fn with_prefix(&self, point: u64, bits: u32) -> Range<usize> {
        if bits == 0 {
            return 0..self.heads.len();
        }
        let low = point & (u64::MAX << (64 - bits));
        let high = low | u64::MAX.checked_shr(bits).unwrap_or(0);
        let start = self.heads.partition_point(|head| *head < low);
        let end = start + self.heads[start..].partition_point(|head| *head <= high);
        start..end
    }

    /// Those that share exactly `bits` bits with `point`.
    pub fn bucket(&self, point: u64, bits: u32) -> Range<usize> {
        self.with_prefix(point ^ (1 << (63 - bits)), bits + 1)
    }

    /// The `most` nearest to `point` that `wanted` lets through, nearest first.
    pub fn nearest(&self, point: u64, most: usize, wanted: &dyn Fn(usize) -> bool) -> Vec<usize> {
        let mut found = Vec::with_capacity(most);
        self.collect(0..self.heads.len(), 0, point, most, wanted, &mut found);
        found
    }

    fn collect(
        &self,
        range: Range<usize>,
        bit: u32,
        point: u64,
        most: usize,
        wanted: &dyn Fn(usize) -> bool,
        found: &mut Vec<usize>,
    ) {
        if range.is_empty() || found.len() >= most {
            return;
        }
        if range.len() <= 8 || bit >= 64 {
            let mut few: Vec<usize> = range.filter(|i| wanted(*i)).collect();
            few.sort_unstable_by_key(|i| self.heads[*i] ^ point);
            found.extend(few.into_iter().take(most - found.len()));
            return;
        }
        let mask = 1_u64 << (63 - bit);
        let middle = range.start + self.heads[range.clone()].partition_point(|head| head & mask == 0);
        let (zeros, ones) = (range.start..middle, middle..range.end);
        let (near, far) = if point & mask == 0 { (zeros, ones) } else { (ones, zeros) };
        self.collect(near, bit + 1, point, most, wanted, found);
        self.collect(far, bit + 1, point, most, wanted, found);
    }
}
