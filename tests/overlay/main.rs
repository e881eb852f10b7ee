//! Overlays of real nodes in one process, on loopback: what nodes keep, find and refuse, and what is left when nodes
//! die (SECURITY §2.2; FORMATS "Decisions for the first day").
//!
//! Success rates and times are printed: `cargo nextest run --test overlay --no-capture losses`. With `PEERLINE_FULL=1`
//! the losses run in their long form (200 users instead of 30).

#[allow(dead_code, reason = "the long form uses all of it")]
mod arena;
mod circuits;
mod floods;
mod greed;
mod harness;
mod liars;
mod listing;
mod losses;
mod meeting;
mod mortal;
mod relay_liars;
mod relaying;
mod restarts;
mod stranger;
mod strangers;
mod tongues;
