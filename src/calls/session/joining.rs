//! The media of a call: descriptions pass from one side's leg through the other's, and the winner is joined.

use super::{Callee, SILENCE, Session};
use crate::calls::cause;
use crate::calls::machine::{Branch, Side};
use crate::media::{MediaError, MediaLeg};
use crate::sip::{Cause, LegId};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Packets come fifty times a second.
const HEARD: Duration = Duration::from_secs(2);

impl Session {
    /// Links whose far end is heard keep the call although they may have no connection for a while.
    pub(super) fn tell_links(&self, now: Instant) {
        let callees = self.callees.values().map(|callee| (callee.link.as_ref(), callee.media.as_ref()));
        let caller = (self.routed.link.as_ref(), self.media.as_ref());
        for (link, media) in callees.chain([caller]) {
            if let (Some(link), Some(media)) = (link, media)
                && !media.silent_for(HEARD)
            {
                link.is_heard(now);
            }
        }
    }

    /// The callee's description: joined to the caller, and what the caller is told.
    pub(super) async fn join(&mut self, branch: Branch, sdp: &[u8]) -> Result<Bytes, Cause> {
        let (callee, caller) = two(&mut self.callees, &mut self.media, branch)?;
        let answer = async {
            callee.accept(sdp).await?;
            let answer = caller.describe_answer(sdp).await?;
            callee.join(caller);
            Ok(answer)
        };
        answer.await.map_err(|error: MediaError| cause::of_media(&error))
    }

    /// The echo service: to the INVITE, or to an offer within the call.
    pub(super) async fn echo(&mut self, offer: Option<&[u8]>) -> Result<Bytes, Cause> {
        let media = self.media.as_mut().ok_or_else(cause::lost)?;
        let answer = async {
            if let Some(offer) = offer {
                media.accept(offer).await?;
            }
            media.echo().await
        };
        answer.await.map_err(|error| cause::of_media(&error))
    }

    /// An offer of one side within the call, as the other side gets it, and on which leg.
    pub(super) async fn describe_reoffer(
        &mut self,
        from: Side,
        to: Side,
        offer: &[u8],
    ) -> Result<(LegId, Bytes), Cause> {
        let leg = self.leg(to).ok_or_else(cause::lost)?;
        let (from, to) = self.sides(from, to)?;
        let described = async {
            from.accept(offer).await?;
            to.describe_offer(offer).await
        };
        let sdp = described.await.map_err(|error: MediaError| cause::of_media(&error))?;
        Ok((leg, sdp))
    }

    /// The answer to it, as the one who asked gets it.
    pub(super) async fn describe_reoffer_answer(&mut self, from: Side, to: Side, sdp: &[u8]) -> Result<Bytes, Cause> {
        let (from, to) = self.sides(from, to)?;
        let described = async {
            from.accept(sdp).await?;
            to.describe_answer(sdp).await
        };
        described.await.map_err(|error: MediaError| cause::of_media(&error))
    }

    /// Nothing came from either side for long, though both should send: their phones are gone.
    pub(super) fn silent(&self) -> bool {
        let quiet = |leg: Option<&MediaLeg>| leg.is_some_and(|leg| leg.silent_for(SILENCE));
        self.answered && quiet(self.media.as_ref()) && self.callees.values().all(|callee| quiet(callee.media.as_ref()))
    }

    fn sides(&mut self, from: Side, to: Side) -> Result<(&mut MediaLeg, &mut MediaLeg), Cause> {
        match (from, to) {
            (Side::Callee(branch), Side::Caller) => two(&mut self.callees, &mut self.media, branch),
            (Side::Caller, Side::Callee(branch)) => {
                two(&mut self.callees, &mut self.media, branch).map(|(callee, caller)| (caller, callee))
            }
            (Side::Caller, Side::Caller) | (Side::Callee(_), Side::Callee(_)) => Err(cause::lost()),
        }
    }
}

/// The media of a branch and of the caller.
fn two<'a>(
    callees: &'a mut std::collections::HashMap<Branch, Callee>,
    caller: &'a mut Option<MediaLeg>,
    branch: Branch,
) -> Result<(&'a mut MediaLeg, &'a mut MediaLeg), Cause> {
    let callee = callees.get_mut(&branch).and_then(|callee| callee.media.as_mut());
    callee.zip(caller.as_mut()).ok_or_else(cause::lost)
}
