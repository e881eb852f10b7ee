//! Whom to follow next, and what there is to doubt.

use super::*;

/// Leads of a kind that are followed in each round at least. The cache has 64, of which some are enough; others are few,
/// and each was named by somebody.
fn heard_of(source: Source) -> usize {
    match source {
        Source::Tried => 8,
        Source::New => 0,
        Source::Anchor | Source::Contact | Source::Bootstrap | Source::Dns | Source::Lan => usize::MAX,
    }
}

impl Joining {
    /// Whether a view of a source of this kind is still wanted. Each kind has its say: who poisoned the cache has not
    /// thereby poisoned the charter's list.
    pub(super) fn wants(&self, source: Source) -> bool {
        let few = self.views.networks() < NEEDED + SPARE && self.views.iter().count() < ENOUGH;
        if self.alone || few || self.standing != Standing::Joined {
            return true;
        }
        let viewed = |path: &&Path| path.node.is_some_and(|node| self.views.iter().any(|view| view.through == node));
        let of_kind = self.leads.iter().filter(|path| path.lead.source == source && !path.feeler);
        of_kind.filter(viewed).count() < NEEDED
    }

    /// As [`Joining::wants`], of one lead. Whoever was named as a way in is followed once in each round, however many of
    /// its kind have shown the same: five liars on a list must not keep the three honest ones after them from being heard.
    pub(super) fn wants_path(&self, path: &Path) -> bool {
        let heard = self.leads.iter().filter(|other| other.asked && other.lead.source == path.lead.source).count();
        self.wants(path.lead.source) || !path.asked && heard < heard_of(path.lead.source)
    }

    /// Networks that sources are known in, those of the LAN aside: as many as can be needed.
    pub(super) fn known_networks(&self) -> usize {
        let (mut systems, mut unknown) = (HashSet::new(), 0);
        for path in
            self.leads.iter().filter(|path| path.lead.source != Source::Lan && !path.feeler && (path.recent || path.up))
        {
            // A contact's node that shows nothing, as it serves nobody, is none that should have.
            let viewed = || path.node.is_some_and(|node| self.views.iter().any(|view| view.through == node));
            match path.network {
                _ if path.lead.source == Source::Contact && !viewed() => {}
                Some(network) => _ = systems.insert(network.system),
                None => unknown += 1,
            }
        }
        systems.len() + unknown
    }

    /// Next to be dialled: by source, of networks that no view is there of first.
    pub(super) fn next_lead(&mut self, now: Instant) -> Option<Lead> {
        let busy = self.leads.iter().filter(|path| path.busy_until.is_some()).count();
        if busy >= AT_ONCE {
            return None;
        }
        let kinds = [Source::Anchor, Source::Tried, Source::Contact, Source::Bootstrap, Source::Dns, Source::Lan];
        let wanted: Vec<Source> = kinds.into_iter().filter(|kind| self.wants(*kind)).collect();
        // In turn by kind: places in the table go to those who come first, and no kind is to fill it alone.
        let mut followed: HashMap<Source, usize> = HashMap::new();
        for path in self.leads.iter().filter(|path| path.up || path.busy_until.is_some()) {
            *followed.entry(path.lead.source).or_default() += 1;
        }
        let seen: HashSet<u64> = self.views.iter().map(|view| view.network.system).collect();
        let mut heard: HashMap<Source, usize> = HashMap::new();
        for path in self.leads.iter().filter(|path| path.asked) {
            *heard.entry(path.lead.source).or_default() += 1;
        }
        let owed = |path: &Path| {
            !path.asked && heard.get(&path.lead.source).copied().unwrap_or(0) < heard_of(path.lead.source)
        };
        let ready = |path: &&mut Path| {
            let due = path.busy_until.is_none() && !path.up && path.again_at <= now;
            due && (wanted.contains(&path.lead.source) || owed(path))
        };
        let order = |path: &&mut Path| {
            let known = path.network.is_some_and(|network| seen.contains(&network.system));
            let followed = followed.get(&path.lead.source).copied().unwrap_or(0);
            (known, path.pause, followed, path.lead.source, path.lead.id)
        };
        let path = self.leads.iter_mut().filter(ready).min_by_key(order)?;
        (path.busy_until, path.asked) = (Some(now + DIAL), true);
        Some(path.lead.clone())
    }

    pub(super) fn next_feeler(&mut self, now: Instant, wall: UnixMillis) -> Option<Lead> {
        self.salt = self.salt.wrapping_add(1);
        let peer = self.cache.in_order(false, self.salt, wall).into_iter().next()?.clone();
        if self.leads.iter().any(|path| path.node == Some(peer.node)) {
            return None;
        }
        self.add_lead(Source::New, Some(peer.node), &peer.addresses, None, 0, now);
        let path = self.leads.last_mut().filter(|path| path.node == Some(peer.node))?;
        (path.feeler, path.busy_until) = (true, Some(now + DIAL));
        Some(path.lead.clone())
    }

    /// The views of sources beyond the local network.
    fn wide(&self) -> Views {
        let mut wide = Views::default();
        for view in self.views.iter().filter(|view| !self.lan.contains(&view.through)) {
            wide.add(view.clone());
        }
        wide
    }

    /// Networks beyond the local one whose sources agree. What agrees less than three independent networks may be one
    /// liar's: that cannot be found out, and is said.
    pub fn confirmed_by(&self) -> usize {
        self.wide().verdict().agree
    }

    /// How this node stands to the overlay, in words for who reads the status. `peers`: to how many it is connected.
    pub fn words(&self, peers: usize) -> String {
        let standing = self.standing;
        match (standing, self.confirmed_by()) {
            (Standing::Alone, _) if peers > 0 => {
                "the first node: others have come to it, and it was given no way in to compare them with".into()
            }
            (Standing::Joined, 0) => "joined in the local network; no node beyond it is known".into(),
            (Standing::Joined, 1) => {
                "joined through one network only: nobody independent confirms that this is the whole overlay".into()
            }
            (Standing::Joined, agree) if agree < NEEDED => {
                format!(
                    "joined through {agree} networks only: fewer than {NEEDED} confirm that this is the whole overlay"
                )
            }
            (Standing::Joined, agree) => format!("joined: sources in {agree} networks agree"),
            (Standing::Alone | Standing::Joining | Standing::PossiblyIsolated(_), _) => standing.to_string(),
        }
    }

    pub(super) fn doubt(&self) -> Option<Doubt> {
        let known = self.known_networks();
        let (needed, lan_only) = (known.min(NEEDED), known == 0);
        if self.leads.is_empty() || (lan_only && self.views.networks() > 0) {
            return None;
        }
        let wide = self.wide();
        if self.views.networks() == 0 {
            return Some(Doubt::NobodyAnswers);
        }
        let verdict = wide.verdict();
        if wide.networks() < needed {
            return Some(Doubt::FewNetworks);
        }
        let anchor = |node: &NodeKey| {
            self.leads.iter().any(|path| path.node == Some(*node) && path.lead.source == Source::Anchor)
        };
        if wide.dissenters().iter().any(anchor) {
            return Some(Doubt::SourcesDisagree);
        }
        if verdict.agree < needed || verdict.dissent >= needed.max(2) || verdict.dissent >= verdict.agree {
            return Some(Doubt::SourcesDisagree);
        }
        if self.nodes_before >= LARGE && wide.nodes().is_some_and(|nodes| nodes * SHRUNK < self.nodes_before) {
            return Some(Doubt::Shrunk);
        }
        (self.missed_checks >= MISSED).then_some(Doubt::RecordsGone)
    }
}
