//! Nothing is ever accepted whose payload was not signed by the right key.
//!
//! Valid bundles are changed in bits, bytes, fields and pieces of each other, and judged; whatever comes out of the
//! validator is taken apart again, and each payload in it must be one that was signed for this user. The long form:
//!
//! ```sh
//! PEERLINE_MUTATIONS=10000000 cargo test --test mutations -- --nocapture
//! ```
//! `PEERLINE_SEED` repeats a run. (Dependencies are optimised in every profile: `--release` gains little.)

#[allow(dead_code)]
#[path = "records/making.rs"]
mod making;

use making::{NOW, NOW_MILLIS, Person, device, judge};
use peerline::record::{RecordKey, ValidBundle, validate};
use peerline::wire::pb;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::HashSet;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const SHORT_FORM: u64 = 200_000;

/// SplitMix64: small, good enough to choose mutations, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A valid bundle, and what a judge may hold of the same user already.
struct Sample {
    key: RecordKey,
    bytes: Vec<u8>,
    held: Vec<ValidBundle>,
    /// Index of the user.
    who: usize,
}

struct Corpus {
    samples: Vec<Sample>,
    /// (who, kind, payload): everything that was ever signed by the right key.
    signed: HashSet<(usize, u8, Vec<u8>)>,
    inceptions: Vec<Vec<u8>>,
}

const ROTATION: u8 = 1;
const OWNER: u8 = 2;
const REVOCATION: u8 = 3;
const CERTIFICATE: u8 = 4;
const ENVELOPE: u8 = 5;

/// Every signed payload of a bundle, by kind.
fn payloads(bundle: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let bundle = pb::Bundle::decode(bundle).unwrap();
    let payload = |bytes: &Bytes| pb::Signed::decode(bytes.clone()).unwrap().payload.to_vec();
    let mut all: Vec<_> = bundle.rotations.iter().map(|r| (ROTATION, payload(r))).collect();
    all.extend((!bundle.owner.is_empty()).then(|| (OWNER, payload(&bundle.owner))));
    all.extend((!bundle.revocation.is_empty()).then(|| (REVOCATION, payload(&bundle.revocation))));
    for entry in &bundle.entries {
        let entry = pb::SignedEntry::decode(entry.clone()).unwrap();
        all.push((CERTIFICATE, payload(&entry.certificate)));
        all.push((ENVELOPE, entry.envelope.to_vec()));
    }
    all
}

fn bundles_of(person: &Person) -> Vec<Vec<u8>> {
    let many = (1..9).map(|n| {
        person.entry(&device(n), |e, b| {
            e.sequence += u64::from(n);
            b.priority = u32::from(n) * 100;
        })
    });
    let tombstone = person.entry(&device(2), |e, b| {
        (e.state, e.sequence) = (4, NOW_MILLIS + 50);
        b.addresses.clear();
    });
    let newer = person.entry(&device(3), |e, _| (e.state, e.ver) = (9, 2));
    let certificate = person.certificate(&device(4), |c| {
        c.caveats = Some(pb::Caveats { max_ttl: 3_600, max_priority: 500, forward_only: false });
    });
    let limited = person.entry_under(certificate, &device(4), |_, _| {});
    let owner = person.owner(|o| o.revoked_serials = vec![1, 2, 3]);
    vec![
        person.one(|_, _| {}),
        person.one(|e, _| (e.sequence, e.expires_at) = (NOW_MILLIS + 7, NOW + 60)),
        person.bundle(many.collect(), Some(owner.clone()), None),
        person.bundle(vec![tombstone, newer, limited], Some(owner.clone()), None),
        person.bundle(Vec::new(), Some(owner), None),
        person.bundle(Vec::new(), None, Some(person.revocation(|_| {}))),
    ]
}

fn corpus() -> Corpus {
    let mut corpus = Corpus { samples: Vec::new(), signed: HashSet::new(), inceptions: Vec::new() };
    for n in 0..3u8 {
        let who = usize::from(n);
        let born = Person::new(n + 1);
        corpus.inceptions.push(born.inception.to_vec());
        for person in [born.clone(), born.rotated(), born.rotated().rotated()] {
            let all = bundles_of(&person);
            let valid: Vec<_> = all.iter().map(|b| validate(b, &person.key(), &judge(), None).unwrap()).collect();
            for (bytes, own) in all.iter().zip(&valid) {
                corpus.signed.extend(payloads(bytes).into_iter().map(|(kind, payload)| (who, kind, payload)));
                let held = valid.iter().filter(|v| *v != own).cloned().collect();
                corpus.samples.push(Sample { key: person.key(), bytes: bytes.clone(), held, who });
            }
        }
    }
    corpus
}

/// Changes bytes without regard to what they mean.
fn blind(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(7) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.next() as u8,
        3 => drop(bytes.drain(at..(at + 1 + random.below(8)).min(bytes.len()))),
        4 => {
            let piece = other[random.below(other.len())..].iter().take(1 + random.below(64)).copied();
            let piece: Vec<u8> = piece.collect();
            drop(bytes.splice(at..at, piece));
        }
        5 => {
            let from = random.below(other.len());
            for (to, byte) in bytes[at..].iter_mut().zip(&other[from..]).take(1 + random.below(96)) {
                *to = *byte;
            }
        }
        _ => bytes.truncate(at),
    }
}

/// Adds the group order to S: the same signature to a lax verifier.
fn malleate(signature: &mut [u8]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0u16;
    for (byte, order) in signature.iter_mut().skip(32).zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
}

fn signature(bytes: &Bytes, random: &mut Random) -> Bytes {
    let mut bytes = bytes.to_vec();
    match random.below(4) {
        0 => malleate(&mut bytes),
        1 => bytes.iter_mut().take(32).for_each(|b| *b = 0),
        2 => bytes = [vec![1], vec![0; 63]].concat(),
        _ => blind_in_place(&mut bytes, random),
    }
    bytes.into()
}

fn blind_in_place(bytes: &mut [u8], random: &mut Random) {
    if !bytes.is_empty() {
        bytes[random.below(bytes.len())] ^= 1 << random.below(8);
    }
}

/// A number near what it was, or far from it.
fn number(value: u64, random: &mut Random) -> u64 {
    match random.below(4) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => value ^ (1 << random.below(64)),
        _ => random.next() >> random.below(64),
    }
}

fn entry(bytes: &Bytes, other: Option<&Bytes>, random: &mut Random) -> Bytes {
    let Ok(mut entry) = pb::SignedEntry::decode(bytes.clone()) else { return bytes.clone() };
    let other = other.and_then(|o| pb::SignedEntry::decode(o.clone()).ok());
    match (random.below(7), other) {
        (0, Some(other)) => entry.certificate = other.certificate,
        (1, Some(other)) => entry.envelope = other.envelope,
        (2, Some(other)) => entry.signature = other.signature,
        (3, _) => entry.signature = signature(&entry.signature, random),
        (4, _) => {
            let Ok(mut certificate) = pb::Signed::decode(entry.certificate.clone()) else { return bytes.clone() };
            let Ok(mut content) = pb::DeviceCertificate::decode(certificate.payload.clone()) else {
                return bytes.clone();
            };
            match random.below(8) {
                0 => content.rights = number(content.rights.into(), random) as u32,
                1 => content.not_after = number(content.not_after, random),
                2 => content.epoch = number(content.epoch.into(), random) as u32,
                3 => content.serial = number(content.serial, random),
                4 => content.caveats = None,
                5 => content.device_key = Bytes::from(vec![random.below(2) as u8; 32]),
                6 => certificate.signature = signature(&certificate.signature, random),
                _ => content.rotation = number(content.rotation.into(), random) as u32,
            }
            certificate.payload = content.encode_to_vec().into();
            entry.certificate = certificate.encode_to_vec().into();
        }
        _ => {
            let Ok(mut envelope) = pb::Envelope::decode(entry.envelope.clone()) else { return bytes.clone() };
            match random.below(8) {
                0 => envelope.sequence = number(envelope.sequence, random),
                1 => envelope.expires_at = number(envelope.expires_at, random),
                2 => envelope.issued_at = number(envelope.issued_at, random),
                3 => envelope.state = random.below(6) as u32,
                4 => envelope.epoch = number(envelope.epoch.into(), random) as u32,
                5 => envelope.ver = random.below(3) as u32,
                6 => envelope.rotation = number(envelope.rotation.into(), random) as u32,
                _ => {
                    let mut body = envelope.body.to_vec();
                    blind_in_place(&mut body, random);
                    envelope.body = body.into();
                }
            }
            entry.envelope = envelope.encode_to_vec().into();
        }
    }
    entry.encode_to_vec().into()
}

/// Changes one field or moves pieces between bundles; everything else stays well formed, so that it gets far.
fn knowing(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bundle = pb::Bundle::decode(bytes).unwrap();
    let other = pb::Bundle::decode(other).unwrap();
    let pick = random.below(bundle.entries.len());
    let theirs = (!other.entries.is_empty()).then(|| random.of(&other.entries).clone());
    match random.below(12) {
        0 => bundle.inception = other.inception,
        1 => bundle.rotations = other.rotations,
        2 => bundle.owner = other.owner,
        3 => bundle.revocation = other.revocation,
        4 => bundle.entries.extend(theirs),
        5 if !bundle.entries.is_empty() => drop(bundle.entries.remove(pick)),
        6 if !bundle.owner.is_empty() => {
            if let Ok(mut signed) = pb::Signed::decode(bundle.owner.clone())
                && let Ok(mut owner) = pb::OwnerStatement::decode(signed.payload.clone())
            {
                match random.below(4) {
                    0 => owner.min_epoch = number(owner.min_epoch.into(), random) as u32,
                    1 => owner.sequence = number(owner.sequence, random),
                    2 => owner.revoked_serials.push(random.next()),
                    _ => signed.signature = signature(&signed.signature, random),
                }
                signed.payload = owner.encode_to_vec().into();
                bundle.owner = signed.encode_to_vec().into();
            }
        }
        7 if !bundle.rotations.is_empty() => {
            let at = random.below(bundle.rotations.len());
            let mut rotation = bundle.rotations[at].to_vec();
            blind_in_place(&mut rotation, random);
            bundle.rotations[at] = rotation.into();
        }
        8 if !bundle.revocation.is_empty() => {
            let mut revocation = bundle.revocation.to_vec();
            blind_in_place(&mut revocation, random);
            bundle.revocation = revocation.into();
        }
        _ if !bundle.entries.is_empty() => bundle.entries[pick] = entry(&bundle.entries[pick], theirs.as_ref(), random),
        _ => bundle.entries.extend(theirs),
    }
    if random.below(2) == 0 {
        bundle.entries.sort_by_key(|e| making::device_key(e));
    }
    bundle.encode_to_vec()
}

#[derive(Default, Debug)]
struct Tally {
    tried: u64,
    refused: u64,
    /// Accepted, and the same bytes come out (the mutation undid itself, or mended nothing that counts).
    identical: u64,
    /// Accepted with fewer or other, all properly signed, pieces.
    subset: u64,
}

fn attack(corpus: &Corpus, count: u64, seed: u64) -> Tally {
    let mut random = Random(seed);
    let mut tally = Tally::default();
    for _ in 0..count {
        let sample = random.of(&corpus.samples);
        let other = random.of(&corpus.samples);
        let mut bytes = match random.below(3) {
            0 => sample.bytes.clone(),
            _ => knowing(&sample.bytes, &other.bytes, &mut random),
        };
        if random.below(3) == 0 || bytes == sample.bytes {
            for _ in 0..=random.below(3) {
                if !bytes.is_empty() {
                    blind(&mut bytes, &other.bytes, &mut random);
                }
            }
        }
        let held = (random.below(3) == 0).then(|| random.of(&sample.held));
        let before = random.0;
        tally.tried += 1;
        match validate(&bytes, &sample.key, &judge(), held) {
            Err(_) => tally.refused += 1,
            Ok(valid) => {
                let out = valid.encode();
                let inception = pb::Bundle::decode(&out[..]).unwrap().inception;
                assert_eq!(inception[..], corpus.inceptions[sample.who], "seed {seed}, state {before}");
                for (kind, payload) in payloads(&out) {
                    let known = corpus.signed.contains(&(sample.who, kind, payload));
                    assert!(known, "FORGED: kind {kind}, seed {seed}, state {before}, bytes {bytes:02x?}");
                }
                if out == sample.bytes { tally.identical += 1 } else { tally.subset += 1 }
            }
        }
    }
    tally
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn nothing_unsigned_is_ever_accepted() {
    let count = setting("PEERLINE_MUTATIONS").unwrap_or(SHORT_FORM);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = setting("PEERLINE_SEED").unwrap_or(clock.as_millis() as u64);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()) as u64;
    println!("{count} mutations, seed {seed}, {threads} threads");
    let corpus = corpus();
    let begun = Instant::now();
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let share = |n: u64| count / threads + u64::from(n < count % threads);
        let corpus = &corpus;
        let running: Vec<_> =
            (0..threads).map(|n| scope.spawn(move || attack(corpus, share(n), seed.wrapping_add(n << 48)))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    println!(
        "{} mutations: {} refused, {} accepted identical, {} accepted of signed pieces, 0 forged; {:.1} s, seed {seed}",
        sum(|t| t.tried),
        sum(|t| t.refused),
        sum(|t| t.identical),
        sum(|t| t.subset),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(sum(|t| t.tried), count);
}
