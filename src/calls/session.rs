//! One call at work: carries out what its machine decides against `sip`, `media`, `overlay` and `locator`, and tells the
//! machine what came of it. Long waits (connecting) are tasks of their own that end with the branch.

mod joining;

use super::cause;
use super::legs::{Delivery, Mailbox};
use super::links::{LinkInfo, LinkUse};
use super::machine::{Branch, Call, Effect, Ending, Event, Plan, Side};
use super::paths::Meeting;
use super::reach::{CONNECT_DEADLINE, PATIENCE, Way};
use super::routing::{self, Routed};
use super::setup::Target;
use super::{CallRecord, Shared};
use crate::clock::UnixMillis;
use crate::locator::{LocateError, Located};
use crate::media::{LegKind, MediaError, MediaLeg};
use crate::overlay::{LinkError, LinkId};
use crate::record::VerifiedDevice;
use crate::sip::{Caller, Cause, DialTarget, LegId, Presented, SipEvent, TrunkId};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long both sides may be silent before the call is taken for dead, and how often that is looked at.
const SILENCE: Duration = Duration::from_secs(90);
const LISTEN_EVERY: Duration = Duration::from_secs(10);

/// How often the links are told that the call is heard.
const FLOW_EVERY: Duration = Duration::from_secs(1);

/// Times that a device is connected for one call: a link may go down, as its far end was started anew, just when it is given.
const ATTEMPTS: usize = 2;

/// Connections that are reported at once: no call has more branches.
const MOST_REPORTS: usize = 64;

/// An INVITE.
pub(super) struct Invitation {
    pub leg: LegId,
    pub caller: Caller,
    pub dialled: String,
    pub offer: Bytes,
}

/// A link for a branch is up, or not.
struct Connected {
    branch: Branch,
    /// To be tried once more, if this link turns out to be dead.
    again: Option<VerifiedDevice>,
    result: Result<(LinkId, LinkInfo, LinkUse), Cause>,
}

/// What belongs to a branch; all of it ends with it.
#[derive(Default)]
struct Callee {
    delivery: Option<Delivery>,
    media: Option<MediaLeg>,
    /// On the way to a device, until it is heard of.
    connecting: Option<AbortOnDropHandle<()>>,
    _meeting: Option<Meeting>,
    link: Option<LinkUse>,
}

pub(super) struct Session {
    shared: Arc<Shared>,
    call: Call,
    routed: Routed,
    started: UnixMillis,
    caller: Delivery,
    mailbox: Mailbox,
    offer: Bytes,
    /// The caller has a 200.
    answered: bool,
    media: Option<MediaLeg>,
    /// The caller is at another node, which finds paths with us.
    _meeting: Option<Meeting>,
    callees: HashMap<Branch, Callee>,
    /// Which branch a leg is.
    branches: HashMap<LegId, Branch>,
    /// Devices that were dialled over this link and have said nothing yet: the link may have been a dead one.
    unheard: HashMap<Branch, (VerifiedDevice, LinkId)>,
    /// How the callee of a branch is reached, for history, and how a caller at another node was.
    paths: HashMap<Branch, &'static str>,
    inward: Option<&'static str>,
    located: Option<mpsc::Receiver<Located>>,
    reports: mpsc::Sender<Connected>,
    reported: mpsc::Receiver<Connected>,
}

impl Session {
    pub(super) async fn new(
        shared: Arc<Shared>,
        invitation: Invitation,
        caller: Delivery,
        mailbox: Mailbox,
    ) -> Session {
        shared.history.started();
        let (now, started) = (Instant::now(), UnixMillis::now());
        let mut routed = routing::route(&shared, &invitation.caller, &invitation.dialled).await;
        let (mut media, mut meeting) = (None, None);
        if let (Plan::Ring { .. } | Plan::Echo, Some(ips)) = (&routed.plan, routed.media_ips) {
            let link = match &invitation.caller {
                Caller::Trunk(trunk) => Some(LinkId(trunk.0)),
                Caller::Phone { .. } => None,
            };
            match open(&shared, (routed.kind, link), ips, &invitation.offer).await {
                Ok(leg) => {
                    meeting = link.and_then(|link| shared.meet(&leg, link));
                    media = Some(leg);
                }
                Err(error) => routed.plan = Plan::Refuse(cause::of_media(&error)),
            }
        }
        let plan = std::mem::replace(&mut routed.plan, Plan::Echo);
        let (reports, reported) = mpsc::channel(MOST_REPORTS);
        Session {
            call: Call::new(plan, shared.ring_timeout, now),
            shared,
            routed,
            started,
            caller,
            mailbox,
            offer: invitation.offer,
            answered: false,
            media,
            _meeting: meeting,
            callees: HashMap::new(),
            branches: HashMap::new(),
            unheard: HashMap::new(),
            paths: HashMap::new(),
            inward: None,
            located: None,
            reports,
            reported,
        }
    }

    pub(super) async fn run(mut self, mut mail: mpsc::Receiver<SipEvent>, overwhelmed: CancellationToken) {
        let stop = self.shared.stop.clone();
        let mut listen = tokio::time::interval(LISTEN_EVERY);
        listen.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut flow = tokio::time::interval(FLOW_EVERY);
        flow.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut stopped, mut lost) = (false, false);
        loop {
            while let Some(effect) = self.call.poll_effect() {
                if let Effect::Finished(ending) = effect {
                    self.finish(ending);
                    return;
                }
                if let Some(event) = self.execute(effect).await {
                    self.call.handle(event, Instant::now());
                }
            }
            if !self.call.is_setup() {
                self.routed.ringing = None;
            }
            let due = self.call.poll_timeout().map(tokio::time::Instant::from_std);
            let event = tokio::select! {
                Some(event) = mail.recv() => self.understand(event),
                Some(connected) = self.reported.recv() => self.connected(connected).await,
                located = next(&mut self.located) => self.found(located),
                () = wait_until(due), if due.is_some() => {
                    self.call.handle_timeout(Instant::now());
                    None
                }
                _ = flow.tick(), if self.answered => {
                    self.tell_links(Instant::now());
                    None
                }
                _ = listen.tick() => self.silent().then(|| Event::Stop(cause::silent())),
                () = stop.cancelled(), if !stopped => {
                    stopped = true;
                    Some(Event::Stop(cause::stopping()))
                }
                () = overwhelmed.cancelled(), if !lost => {
                    lost = true;
                    Some(Event::Stop(cause::overwhelmed()))
                }
            };
            if let Some(event) = event {
                self.call.handle(event, Instant::now());
            }
        }
    }

    /// Carries one effect out; what failed comes back as an event.
    async fn execute(&mut self, effect: Effect) -> Option<Event> {
        let sip = self.shared.sip.clone();
        match effect {
            Effect::Locate => self.located = self.routed.callee.map(|callee| self.shared.locator.locate(callee)),
            Effect::StopLocate => self.located = None,
            Effect::Dial { branch, target: Target::Contact(contact) } => {
                self.paths.insert(branch, "local");
                let Some(ips) = sip.contact_ips(contact).await else {
                    return Some(Event::Failed { branch, cause: cause::no_phone() });
                };
                let target = DialTarget::Contact(contact);
                return self.dial(branch, target, (LegKind::Phone, ips), Callee::default()).await;
            }
            Effect::Dial { branch, target: Target::Device(device) } => {
                self.paths.insert(branch, "direct");
                let again = Some(device.clone());
                return self.connect(branch, device, again);
            }
            Effect::Ring { status, early } => {
                let early = match early {
                    Some((branch, sdp)) => self.join(branch, &sdp).await.ok(),
                    None => None,
                };
                let status = if early.is_some() { status } else { 180 };
                sip.ring(self.caller.leg, status, early).await;
            }
            Effect::Answer { branch, sdp } => match self.join(branch, &sdp).await {
                Ok(sdp) => {
                    let connected = Presented { uri: self.routed.to.clone(), display: None };
                    self.answered = true;
                    sip.answer(self.caller.leg, sdp, Some(connected)).await;
                }
                Err(cause) => return Some(Event::MediaFailed { side: Side::Callee(branch), cause }),
            },
            Effect::Echo => match self.echo(None).await {
                Ok(sdp) => {
                    self.answered = true;
                    sip.answer(self.caller.leg, sdp, None).await;
                }
                Err(cause) => return Some(Event::MediaFailed { side: Side::Caller, cause }),
            },
            Effect::EchoReoffer { offer } => match self.echo(Some(&offer)).await {
                Ok(sdp) => sip.answer_reoffer(self.caller.leg, sdp).await,
                Err(cause) => sip.reject_reoffer(self.caller.leg, cause).await,
            },
            Effect::EndCaller(cause) if self.answered => sip.hang_up(self.caller.leg, cause).await,
            Effect::EndCaller(cause) => sip.reject(self.caller.leg, cause).await,
            Effect::HangUp { branch, cause } => {
                if let Some(delivery) = self.callees.get_mut(&branch).and_then(|callee| callee.delivery.take()) {
                    sip.hang_up(delivery.leg, cause).await;
                }
            }
            Effect::FreeMedia(Side::Caller) => {
                let media = self.media.take().filter(|_| self.routed.kind == LegKind::Peer);
                self.inward = media.map(|media| media.stats().path.word());
            }
            Effect::FreeMedia(Side::Callee(branch)) => self.free(branch),
            Effect::Reoffer { from, to, offer } => match self.describe_reoffer(from, to, &offer).await {
                Ok((leg, sdp)) => sip.reoffer(leg, sdp).await,
                Err(cause) => return Some(Event::ReofferFailed { side: to, cause }),
            },
            Effect::AnswerReoffer { from, to, sdp } => {
                let leg = self.leg(to)?;
                match self.describe_reoffer_answer(from, to, &sdp).await {
                    Ok(sdp) => sip.answer_reoffer(leg, sdp).await,
                    Err(cause) => sip.reject_reoffer(leg, cause).await,
                }
            }
            Effect::RejectReoffer { to, cause } => {
                if let Some(leg) = self.leg(to) {
                    sip.reject_reoffer(leg, cause).await;
                }
            }
            Effect::Info { to, content_type, body } => {
                if let Some(leg) = self.leg(to) {
                    sip.info(leg, content_type, body).await;
                }
            }
            // The loop takes it.
            Effect::Finished(_) => {}
        }
        None
    }

    fn connect(&mut self, branch: Branch, device: VerifiedDevice, again: Option<VerifiedDevice>) -> Option<Event> {
        let (Some(local), Some(remote)) = (self.routed.local, self.routed.callee) else {
            return Some(Event::Failed { branch, cause: cause::no_user() });
        };
        let way = Way { overlay: self.shared.overlay.clone(), locator: self.shared.locator.clone(), local, remote };
        let (links, reports) = (self.shared.links.clone(), self.reports.clone());
        let connecting = tokio::spawn(async move {
            let node = device.node;
            let up = async {
                for _ in 0..ATTEMPTS {
                    let link = way.to(device.clone()).await.map_err(|error| cause::of_link(&error))?;
                    if let Some((info, held)) = links.wait(link).await {
                        return Ok((link, info, held));
                    }
                }
                Err(cause::gone())
            };
            let result = tokio::time::timeout(CONNECT_DEADLINE + Duration::from_secs(1), up).await;
            let result = result.unwrap_or_else(|_| Err(cause::of_link(&LinkError::Timeout)));
            let up = result.is_ok();
            let _ = reports.send(Connected { branch, again, result }).await;
            if up {
                // Whoever is heard of by then ends this task.
                tokio::time::sleep(PATIENCE).await;
                way.look_again(node).await;
            }
        });
        let callee = Callee { connecting: Some(AbortOnDropHandle::new(connecting)), ..Callee::default() };
        self.callees.insert(branch, callee);
        None
    }

    async fn connected(&mut self, Connected { branch, again, result }: Connected) -> Option<Event> {
        // A branch that ended meanwhile is no longer here.
        let mut callee = self.callees.remove(&branch)?;
        match result {
            Ok((link, info, held)) => {
                callee.link = Some(held);
                if let Some(device) = again {
                    self.unheard.insert(branch, (device, link));
                }
                let ips = (info.local_ip, info.remote_ip);
                self.dial(branch, DialTarget::Trunk(TrunkId(link.0)), (LegKind::Peer, ips), callee).await
            }
            Err(cause) => {
                if let Some(callee) = self.routed.callee {
                    self.shared.locator.forget(callee);
                }
                Some(Event::Failed { branch, cause })
            }
        }
    }

    /// An INVITE to one phone or device, with ports and keys of its own.
    async fn dial(
        &mut self,
        branch: Branch,
        target: DialTarget,
        (kind, (local_ip, host)): (LegKind, (IpAddr, IpAddr)),
        mut callee: Callee,
    ) -> Option<Event> {
        let offer = match self.shared.media.open(kind, local_ip) {
            Ok(mut media) => {
                media.expect(host);
                if let DialTarget::Trunk(trunk) = target {
                    self.shared.find_paths(&mut media, LinkId(trunk.0));
                }
                let offer = media.describe_offer(&self.offer).await;
                if let DialTarget::Trunk(trunk) = target {
                    callee._meeting = self.shared.meet(&media, LinkId(trunk.0));
                }
                callee.media = Some(media);
                offer
            }
            Err(error) => Err(error),
        };
        let offer = match offer {
            Ok(offer) => offer,
            Err(error) => return Some(Event::Failed { branch, cause: cause::of_media(&error) }),
        };
        let leg = self.shared.sip.new_leg();
        callee.delivery = Some(self.shared.mailboxes.deliver_to(leg, self.mailbox.clone()));
        self.branches.insert(leg, branch);
        self.callees.insert(branch, callee);
        self.shared.sip.dial(leg, target, self.routed.presented.clone(), self.routed.to.clone(), offer).await;
        None
    }

    /// The branch is over; how its sound went stays.
    fn free(&mut self, branch: Branch) {
        let media = self.callees.remove(&branch).and_then(|callee| callee.media);
        if let (Some(media), Some(path)) = (media, self.paths.get_mut(&branch).filter(|path| **path != "local")) {
            *path = media.stats().path.word();
        }
    }

    fn found(&mut self, located: Option<Located>) -> Option<Event> {
        match located {
            Some(Located::Binding { binding, .. }) => {
                let own = self.shared.overlay.node();
                let devices = binding.devices.into_iter().filter(|device| device.node != own).collect();
                Some(Event::Found { devices })
            }
            Some(Located::Done(result)) => {
                self.located = None;
                Some(Event::Located(result.map(drop)))
            }
            None => {
                self.located = None;
                Some(Event::Located(Err(LocateError::Stopped)))
            }
        }
    }

    /// What `sip` said, in the words of the machine.
    fn understand(&mut self, event: SipEvent) -> Option<Event> {
        if let SipEvent::Failed { leg, .. }
        | SipEvent::Ended { leg, .. }
        | SipEvent::Progress { leg, .. }
        | SipEvent::Answered { leg, .. } = &event
            && let Some(branch) = self.branch(*leg)
            && let Some((device, link)) = self.heard(branch)
            && !matches!(event, SipEvent::Progress { .. } | SipEvent::Answered { .. })
            && self.shared.links.hold(link).is_none()
        {
            // An old link to a node that has restarted since: a new one is opened, once.
            return self.connect(branch, device, None);
        }
        Some(match event {
            SipEvent::Progress { leg, status, words: _, sdp } => {
                Event::Progress { branch: self.branch(leg)?, status, sdp }
            }
            SipEvent::Answered { leg, sdp } => Event::Answered { branch: self.branch(leg)?, sdp },
            SipEvent::Failed { leg, cause } => Event::Failed { branch: self.branch(leg)?, cause },
            SipEvent::Ended { leg, cause } => Event::Ended { side: self.side(leg)?, cause },
            SipEvent::Reoffer { leg, offer } => Event::Reoffer { side: self.side(leg)?, offer },
            SipEvent::ReofferAnswered { leg, sdp } => Event::ReofferAnswered { side: self.side(leg)?, sdp },
            SipEvent::ReofferFailed { leg, cause } => Event::ReofferFailed { side: self.side(leg)?, cause },
            SipEvent::Info { leg, content_type, body } => Event::Info { side: self.side(leg)?, content_type, body },
            // The router keeps these.
            SipEvent::Contacts { .. } | SipEvent::Invited { .. } | SipEvent::TrunkSend { .. } => return None,
        })
    }

    /// The far end of a branch said something. The device and link, when this is the first that is heard of it.
    fn heard(&mut self, branch: Branch) -> Option<(VerifiedDevice, LinkId)> {
        if let Some(callee) = self.callees.get_mut(&branch) {
            callee.connecting = None;
        }
        self.unheard.remove(&branch)
    }

    fn branch(&self, leg: LegId) -> Option<Branch> {
        self.branches.get(&leg).copied()
    }

    fn side(&self, leg: LegId) -> Option<Side> {
        if leg == self.caller.leg { Some(Side::Caller) } else { self.branch(leg).map(Side::Callee) }
    }

    fn leg(&self, side: Side) -> Option<LegId> {
        match side {
            Side::Caller => Some(self.caller.leg),
            Side::Callee(branch) => self.callees.get(&branch)?.delivery.as_ref().map(|delivery| delivery.leg),
        }
    }

    fn finish(&self, ending: Ending) {
        let millis = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let answered = self.answered;
        let path = match ending.winner {
            Some(branch) => self.inward.or(self.paths.get(&branch).copied()).unwrap_or_default(),
            None if answered => "echo",
            None => "",
        };
        tracing::info!(status = ending.cause.status, words = ?ending.cause.words, answered, path, "call ended");
        self.shared.history.finished(CallRecord {
            started_ms: self.started.0,
            from: self.routed.from.clone(),
            to: self.routed.to.clone(),
            answered,
            seconds: ending.talked.map_or(0, |talked| talked.as_secs()),
            status: ending.cause.status,
            words: ending.cause.words,
            lookup_ms: millis(ending.lookup),
            ring_ms: millis(ending.ring),
            answer_ms: millis(ending.answer),
            path: path.into(),
        });
    }
}

async fn open(
    shared: &Shared,
    (kind, link): (LegKind, Option<LinkId>),
    (local_ip, host): (IpAddr, IpAddr),
    offer: &[u8],
) -> Result<MediaLeg, MediaError> {
    let mut media = shared.media.open(kind, local_ip)?;
    media.expect(host);
    if let Some(link) = link {
        shared.find_paths(&mut media, link);
    }
    media.accept(offer).await?;
    Ok(media)
}

async fn next(located: &mut Option<mpsc::Receiver<Located>>) -> Option<Located> {
    match located {
        Some(located) => located.recv().await,
        None => std::future::pending().await,
    }
}

async fn wait_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
