//! How servers that run plain kad answer, and what liars tell to those.

use super::*;
use crate::known::nearest_of;

/// What a server that runs plain kad answers: who is nearer, each with whether the addresses told are right, and what
/// it holds.
pub struct KadAnswer {
    pub peers: Vec<(u32, bool)>,
    pub held: Option<Which>,
}

impl Scene<'_> {
    /// GET_VALUE of key 0 (or FIND_NODE, when `serving` is not asked for). `many`: whether the asker takes any number
    /// of peers.
    pub fn ask_kad(
        &mut self,
        from: u32,
        id: u32,
        serving: bool,
        many: bool,
        connected: bool,
    ) -> Option<(Duration, KadAnswer)> {
        if !self.there(id) {
            return None;
        }
        let target = self.targets[0];
        if self.kind(id) == Kind::Hostile && self.setting.attack != Attack::None {
            return Some((delays::HOSTILE, self.lie_kad(id, serving, many, target)?));
        }
        let delay = answer_after(self.round_trip(from, id), connected);
        let contacts = self.contacts(id);
        let point = head(&target);
        let near = nearest_of(&contacts, MAX_PEERS, |id| self.distance(id, point));
        let held = if serving { self.held(id, 0) } else { None };
        Some((delay, KadAnswer { peers: near.into_iter().map(|id| (id, true)).collect(), held }))
    }

    fn lie_kad(&mut self, id: u32, serving: bool, many: bool, target: Position) -> Option<KadAnswer> {
        let collusion = |scene: &mut Self| scene.accomplices(id, target).into_iter().map(|id| (id, true)).collect();
        let (peers, held) = match (self.setting.attack, self.phase) {
            (Attack::None | Attack::Drop, _) | (Attack::Selective, Phase::Lookup) => return None,
            (Attack::Misroute, _) => (collusion(self), None),
            (Attack::Stale, _) => (collusion(self), serving.then_some(Which::Old)),
            (Attack::Forge, _) => (collusion(self), serving.then_some(Which::Forged)),
            (Attack::Ghosts, _) => {
                let count = if many { KAD_GHOSTS } else { MAX_PEERS };
                let ghosts = (0..count).map(|i| (GHOST + i as u32, true));
                (ghosts.collect(), None)
            }
            (Attack::AddressPoison, _) => {
                let honest = self.nearest(target, MAX_PEERS, &|node| node.kind == Kind::Honest);
                (honest.into_iter().map(|id| (id, false)).collect(), None)
            }
            (Attack::Selective, Phase::Publish) => {
                let near = self.nearest(target, MAX_PEERS, &|node| node.kind != Kind::Dead);
                (near.into_iter().map(|id| (id, true)).collect(), None)
            }
        };
        Some(KadAnswer { peers, held })
    }

    /// PUT_VALUE of the new record under key 0: honest servers keep it, the others say so.
    pub fn put_kad(&mut self, id: u32) {
        let keeps = match self.kind(id) {
            Kind::Honest => true,
            Kind::Hostile => matches!(self.setting.attack, Attack::None | Attack::Selective),
            Kind::Dead => false,
        };
        if keeps && self.there(id) {
            self.keep(id, 0, Which::New);
        }
    }
}
