//! What was heard in a lookup: each distinct bundle judged once, who said which, and what is the freshest of all.

use super::super::{Card, Distance, Observation, Observations, Position, REPLICAS};
use super::Outcome;
use crate::identity::NodeKey;
use crate::record::{Judge, RecordKey, RejectReason, ValidBundle, validate};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub struct Evidence {
    versions: Vec<Version>,
    /// As many as there were answers at most: what was judged bad is remembered by its hash alone.
    by_hash: BTreeMap<[u8; 32], usize>,
    best: Option<ValidBundle>,
    /// By walk and node.
    said: BTreeMap<(usize, NodeKey), Voice>,
}

#[derive(Debug)]
struct Version {
    verdict: Result<ValidBundle, RejectReason>,
    /// It says everything that the best says.
    fresh: bool,
}

#[derive(Debug)]
struct Voice {
    card: Arc<Card>,
    /// `None`: in the region, and holds nothing.
    version: Option<usize>,
}

impl Evidence {
    pub fn best(&self) -> Option<&ValidBundle> {
        self.best.as_ref()
    }

    pub fn best_bytes(&self) -> Option<Bytes> {
        Some(self.best.as_ref()?.encode().into())
    }

    /// The best, if this made it better.
    pub fn local(&mut self, bundle: ValidBundle) -> Option<ValidBundle> {
        self.join(&bundle)
    }

    /// As [`Evidence::local`]. Equal copies cost one verification, whatever their key.
    pub fn heard(
        &mut self,
        walk: usize,
        key: &RecordKey,
        from: &Arc<Card>,
        bytes: &Bytes,
        judge: &Judge,
    ) -> Option<ValidBundle> {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let (version, is_new) = match self.by_hash.get(&hash) {
            Some(version) => (*version, false),
            None => {
                let verdict = validate(bytes, key, judge, None);
                self.versions.push(Version { verdict, fresh: false });
                self.by_hash.insert(hash, self.versions.len() - 1);
                (self.versions.len() - 1, true)
            }
        };
        self.said.insert((walk, from.node), Voice { card: from.clone(), version: Some(version) });
        let valid = self.versions[version].verdict.as_ref().ok().filter(|_| is_new).cloned()?;
        let better = self.join(&valid);
        if better.is_none() {
            self.compare(version);
        }
        better
    }

    fn join(&mut self, bundle: &ValidBundle) -> Option<ValidBundle> {
        let joined = self.best.as_ref().map_or_else(|| bundle.clone(), |best| best.merge(bundle));
        if self.best.as_ref() == Some(&joined) {
            return None;
        }
        self.best = Some(joined.clone());
        (0..self.versions.len()).for_each(|version| self.compare(version));
        Some(joined)
    }

    fn compare(&mut self, version: usize) {
        let version = &mut self.versions[version];
        if let (Ok(bundle), Some(best)) = (&version.verdict, &self.best) {
            version.fresh = bundle.merge(best) == *bundle;
        }
    }

    /// How many of a walk hold the best.
    pub fn fresh(&self, walk: usize) -> usize {
        let voices = self.said.range((walk, NodeKey([0; 32]))..=(walk, NodeKey([0xff; 32])));
        voices.filter(|(_, voice)| self.is_fresh(voice)).count()
    }

    fn is_fresh(&self, voice: &Voice) -> bool {
        voice.version.is_some_and(|version| self.versions[version].fresh)
    }

    /// Members of the region that gave nothing.
    pub fn empty_handed(&mut self, walk: usize, region: &[Arc<Card>]) {
        for card in region {
            self.said.entry((walk, card.node)).or_insert_with(|| Voice { card: card.clone(), version: None });
        }
    }

    /// Whom to bring up to date: those with an older bundle, then the nearest of those with none.
    pub fn repairs(&self, keys: &[RecordKey; REPLICAS], most: usize) -> Vec<(RecordKey, Arc<Card>)> {
        if self.best.is_none() {
            return Vec::new();
        }
        let mut behind: Vec<(bool, Distance, RecordKey, &Arc<Card>)> = self
            .said
            .iter()
            .filter(|(_, voice)| !self.is_fresh(voice))
            .map(|((walk, _), voice)| {
                let key = keys[*walk];
                let distance = voice.card.position.distance(&Position::of_key(&key));
                (voice.version.is_none(), distance, key, &voice.card)
            })
            .collect();
        behind.sort_by_key(|(empty, distance, ..)| (*empty, *distance));
        behind.into_iter().take(most).map(|(_, _, key, card)| (key, card.clone())).collect()
    }

    /// Who holds what. A node that was asked under several keys counts by the best that it gave.
    pub fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut by_node: BTreeMap<NodeKey, u8> = BTreeMap::new();
        for ((_, node), voice) in &self.said {
            let rank = match voice.version.map(|version| &self.versions[version]) {
                Some(Version { fresh: true, .. }) => 0,
                Some(Version { verdict: Err(reason), .. }) if *reason != RejectReason::Expired => {
                    outcome.refused.insert(*node, *reason);
                    3
                }
                Some(_) => 1,
                None => 2,
            };
            let best = by_node.entry(*node).or_insert(rank);
            *best = rank.min(*best);
        }
        for (node, rank) in by_node {
            match rank {
                0 => outcome.holders.push(node),
                1 => outcome.stale.push(node),
                2 => outcome.empty.push(node),
                _ => {}
            }
        }
        outcome
    }

    /// Facts: who gave the freshest, and who what nobody has by accident.
    pub fn observations(&self) -> Observations {
        let mut facts = Vec::new();
        for ((_, node), voice) in &self.said {
            let Some(version) = voice.version.map(|version| &self.versions[version]) else { continue };
            match &version.verdict {
                Ok(_) if version.fresh => facts.push((*node, Observation::Useful)),
                Err(RejectReason::BadSignature | RejectReason::WeakKey | RejectReason::WrongKey) => {
                    facts.push((*node, Observation::Forged));
                }
                _ => {}
            }
        }
        facts
    }
}
